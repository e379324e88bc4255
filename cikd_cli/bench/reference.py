"""Finds `benchmarks/reference.py`, the authors' step: in a checkout, or where the wheel has put it."""

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from cikd_cli.errors import EXIT_FAILED, CikdError

NAME = "cikd_cli.bench._reference"


@cache
def load_reference() -> ModuleType:
    """The module: `cikd_cli/bench/_reference.py` in a wheel, `benchmarks/reference.py` in a checkout."""
    here = Path(__file__).resolve().parent
    for path in (here / "_reference.py", here.parents[1] / "benchmarks" / "reference.py"):
        if path.is_file():
            spec = spec_from_file_location(NAME, path)
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[NAME] = module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise CikdError(
        "The reference that cikd bench measures against is missing from this installation.",
        hint="pip install --force-reinstall cikd",
        exit_code=EXIT_FAILED,
    )
