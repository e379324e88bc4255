"""Finds `templates/` (in a checkout or in the installed wheel) and renders its pages."""

import base64
import mimetypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.text import clean


@cache
def template_root() -> Path:
    """The folder of recipes and pages: `cikd_cli/templates` in a wheel, `templates` beside `cikd_cli` in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "templates", package.parent / "templates"):
        if (folder / "recipes").is_dir():
            return folder
    raise CikdError(
        "The folder of recipes and templates is missing from this installation",
        hint="pip install --force-reinstall cikd",
        exit_code=EXIT_FAILED,
    )


def render(template: str, values: Mapping[str, object]) -> str:
    """The text of `templates/<template>`; a missing value is an error.

    Pages (`*.html.j2`) escape every value; values are one line each, without terminal escapes.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(template_root()),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: clean(value) if type(value) is str else value,  # Markup is ours
    )
    environment.filters["cell"] = _markdown_cell
    return environment.get_template(template).render(**values)


def data_uri(path: Path) -> str:
    """A picture as a `data:` address, so that a page carries it along."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _markdown_cell(value: object) -> str:
    text = " ".join(str(value).split())
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, "\\" + mark)
    return text
