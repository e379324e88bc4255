"""Wrong inputs and the sentence each gets: test_errors.py tries them all, and `python tests/wrong_inputs.py` writes
docs/errors.md from what they say.

A case is tried in a folder with photos/, tiny.toml and the finished runs teacher, ali and lm (see `make_place`).
"""

import contextlib
import re
import shutil
import tempfile
from pathlib import Path

from tiny import RECIPE, draw_photos
from typer.testing import CliRunner
from wrong_cases import ALI, CASES, LM, TEACH, Case

from cikd_cli.cli.app import app

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"


def make_place(photos: Path, recipe: Path) -> None:
    """The folder's content, in the working directory."""
    shutil.copytree(photos, "photos")
    shutil.copyfile(recipe, "tiny.toml")
    for words in (
        f"{TEACH}photos --epochs 2 --name teacher",
        f"{ALI}--epochs 2 --name ali",
        f"{LM}--epochs 2 --name lm",
    ):
        outcome = CliRunner().invoke(app, [*words.split(), "--quiet"])
        assert outcome.exit_code == 0, outcome.output


def tell(case: Case) -> tuple[int, str, str]:
    """Exit code, standard error and standard output of the case's command, in the working directory."""
    outcome = CliRunner().invoke(app, case.words.split(), env={"COLUMNS": "200", "TERM": "dumb"})
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stderr, outcome.stdout


def listing() -> dict[str, float]:
    """Every file and folder here, with the time it was last written; not what Python compiles."""
    return {str(path): path.lstat().st_mtime_ns for path in Path().rglob("*")}


def remove_all_but(before: dict[str, float]) -> None:
    """Take away what a case's `make` has put there."""
    for name in sorted(set(listing()) - set(before), reverse=True):
        path = Path(name)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def row(case: Case, stderr: str) -> str:
    """The case's line in docs/errors.md."""
    sentence, hint = [*(line for line in stderr.splitlines() if not line.startswith("warning: ")), ""][:2]
    told = sentence.removeprefix("error: ") + (f"<br>*{hint.removeprefix('hint: ')}*" if hint else "")
    told = told.replace(str(Path.cwd()), "…")
    if case.theirs:
        told = re.sub(case.theirs, "…", told)
    cells = (case.what, f"`cikd {case.words}`", told.replace("|", "\\|").replace("<c", "&lt;c"), str(case.code))
    return f"| {' | '.join(cells)} |"


def document(rows: dict[str, str]) -> str:
    """The whole of docs/errors.md, from the row of each case."""
    lines = [
        "# Errors",
        "",
        f"{len(CASES)} wrong inputs and what `cikd` says about them, with the exit code: 2 for input, 1 for a fault",
        "while running. Each takes less than 10 seconds, prints no traceback and writes nothing. Hints are in italics.",
        "`…` stands for a place on the disk, or for the words of another package.",
        "",
        "Made by `python tests/wrong_inputs.py`; `tests/test_errors.py` tries every row.",
    ]
    for group in dict.fromkeys(case.group for case in CASES):
        lines += ["", f"## {group}", "", "| what | command | sentence | code |", "| --- | --- | --- | --- |"]
        lines += [rows[case.what + case.group] for case in CASES if case.group == group]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try every case and write docs/errors.md."""
    rows: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        draw_photos(Path("source"))
        Path("recipe.toml").write_text(RECIPE)
        make_place(Path("source"), Path("recipe.toml"))
        for case in CASES:
            before = listing()
            case.make()
            rows[case.what + case.group] = row(case, tell(case)[1])
            remove_all_but(before)
    DOCUMENT.write_text(document(rows))


if __name__ == "__main__":
    main()
