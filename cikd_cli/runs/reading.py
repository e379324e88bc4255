"""Reading what a run holds (run.json, config.toml), and the sentences about runs that cannot be used.

A run may come from anywhere: what these functions return has the types that the rest of the program counts on.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from cikd_cli.errors import CikdError
from cikd_cli.files import file_sha256, is_file, read_text, read_toml
from cikd_cli.runs.locks import holder
from cikd_cli.runs.record import FORMAT, Record
from cikd_cli.settings.parse import nearest, validate
from cikd_cli.settings.stages import STAGES, training_stages

_STAGE = re.compile(r"[a-z0-9-]{1,40}")
MOST_JSON = 2**26  # bytes of run.json or metrics.jsonl: names of a million classes, rows of 100,000 epochs
COPY_AGAIN = "copy the run again, whole, or train it again"


class Fields(dict[str, Any]):
    """A config.toml; asking for a key that is not there is a CikdError, not a KeyError."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        super().__init__(values)
        self._file = file

    def __missing__(self, key: str) -> NoReturn:
        raise CikdError(f"{self._file} is damaged: it has no {key!r}", hint=COPY_AGAIN)


def read_record(path: Path) -> Record:
    """The run.json of the run at `path`.

    Raises:
        CikdError: no such run, no run at all, damaged, or of another format.
    """
    file = path / "run.json"
    if not is_file(file):
        raise no_run(path)
    try:
        values = json.loads(read_text(file, most=MOST_JSON))
    except (ValueError, OSError, RecursionError) as error:
        raise CikdError(f"{file} is damaged: {error}", hint=COPY_AGAIN) from None
    stage = values.get("stage") if isinstance(values, dict) else None
    if not isinstance(stage, str) or not _STAGE.fullmatch(stage) or "status" not in values:
        raise CikdError(f"{file} was not written by cikd", hint="cikd runs lists the runs")
    theirs = values.get("format")
    if theirs != FORMAT:
        is_older = isinstance(theirs, int) and theirs < FORMAT
        hint = "train it again" if is_older else "pip install --upgrade cikd"
        raise CikdError(f"{path} has the run format {theirs}, and this version reads {FORMAT}", hint=hint)
    if stage not in training_stages():
        hint = "start it as the run was made: by the script that adds the stage, or a newer cikd"
        raise CikdError(f"{path} is of the stage {stage}, which this program does not have", hint=hint)
    try:
        return Record.model_validate(values)
    except ValidationError as error:
        raise CikdError(f"{file} is damaged: {_first(error)}", hint=COPY_AGAIN) from None


def locate(word: str, runs_dir: Path) -> Path | None:
    """The run that a word names: its folder, something inside of it, or either within `runs_dir`; None: no run."""
    for path in (Path(word).expanduser(), runs_dir / word):
        found = next((folder for folder in (path, *path.parents[:2]) if is_file(folder / "run.json")), None)
        if found is not None and _exists(path):
            return found
        if _exists(path):
            return None
    return None


def no_run(path: Path | str, runs_dir: Path | None = None) -> CikdError:
    """The sentence about a path that is no run, with the run that may have been meant."""
    path = Path(path)
    try:
        path.exists()
    except OSError as error:
        return CikdError(f"There is no run {path} ({error.strerror})", hint="cikd runs lists the runs")
    message = f"{path} is not a run: it has no run.json" if path.exists() else f"There is no run {path}"
    inside = sorted(path.glob("*/run.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    if inside:
        return CikdError(message, hint=f"it is a folder of runs; the newest is {inside[0].parent}")
    places = [path.parent] if runs_dir is None else [path.parent, runs_dir]
    near = nearest_run(path.name, places)
    if near is not None:
        return CikdError(message, hint=f"did you mean {near}?")
    if runs_dir is not None and not any(runs_dir.glob("*/run.json")):
        return CikdError(message, hint=f"no runs lie in {runs_dir}; --runs-dir DIR names another folder of runs")
    where = f" --runs-dir {runs_dir}" if runs_dir not in (None, Path("runs")) else ""
    return CikdError(message, hint=f"cikd runs{where} lists the runs")


def nearest_run(name: str, places: Iterable[Path]) -> Path | None:
    """The run in one of the folders whose name is most like `name`, if one is close; the same name first."""
    runs = {file.parent.name: file.parent for place in places for file in sorted(place.glob("*/run.json"))}
    found = name if name in runs else nearest(name, runs)
    return runs[found] if found else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name
        return False


def read_records(runs_dir: Path) -> Iterator[tuple[Path, Record | CikdError]]:
    """Every run in `runs_dir` by name: its folder and run.json, or why that cannot be read."""
    for file in sorted(runs_dir.glob("*/run.json")):
        try:
            yield file.parent, read_record(file.parent)
        except CikdError as error:
            yield file.parent, error


def read_config(path: Path, stage: str) -> dict[str, Any]:
    """The config.toml of the run at `path`: the knobs that are written there, checked as typed ones are.

    Raises:
        CikdError: missing, not TOML, or a value that the stage does not take.
    """
    values = read_toml(path / "config.toml", "config")
    knobs = STAGES[stage].config
    known = {key: value for key, value in values.items() if key in knobs.model_fields}
    checked = validate(knobs, known, command=stage).model_dump(mode="json", include=set(known))
    return Fields(values | checked, path / "config.toml")


def _first(error: ValidationError) -> str:
    """The first thing pydantic found, on one line."""
    detail = error.errors(include_url=False)[0]
    place = ".".join(map(str, detail["loc"])) or "it"
    if detail["type"] == "missing":
        return f"it has no {place!r}"
    return f"{place} {detail['msg'].replace('Input should be', 'should be')}"


def unfinished(path: Path, record: Record, *, status: str) -> CikdError:
    """The sentence about a run that is not done: still running, stopped, or failed after some epoch."""
    if status == "running":
        return CikdError(
            f"{path} is still running ({holder(path)})", hint="wait for it, or stop it with Ctrl-C in its terminal"
        )
    progress = record.progress
    verb = "failed" if status == "failed" else "stopped"
    when = f"after epoch {progress.epoch} of {progress.epochs}" if progress and progress.epoch else "in its first epoch"
    why = f": {record.message}" if verb == "failed" and record.message else ""
    return CikdError(f"{path} {verb} {when}{why}", hint=f"continue it with  cikd {record.stage} --resume {path}")


def refuse_edited(path: Path, record: Record) -> None:
    """Raise CikdError if weights, config.toml or lists of images are not what the record says was written."""
    expected: dict[str, set[str | None]] = {
        "config.toml": {record.config_sha256, record.config_next_sha256} - {None},
        **({record.weights.file: {record.weights.sha256}} if record.weights else {}),
        **{name: {sha256} for name, sha256 in record.images.items()},
    }
    if record.status == "done" and record.weights is None and is_file(path / "model.safetensors"):
        raise CikdError(f"{path / 'run.json'} is damaged: it has no hash of the weights", hint=COPY_AGAIN)
    for name, sha256 in expected.items():
        if not sha256:
            continue
        file = path / name
        if not is_file(file):
            raise CikdError(f"{file} is missing", hint=COPY_AGAIN)
        if file_sha256(file) not in sha256:
            hint = "put the original back; to change a setting, start a new run with a flag"
            raise CikdError(f"{file} was changed after the run wrote it", hint=hint)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as TOML can hold them: a knob that is none is left out."""
    return {
        key: without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
