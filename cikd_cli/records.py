"""Reading `run.json`, and the sentences about runs that cannot be used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cikd_cli.errors import CikdError
from cikd_cli.files import file_sha256
from cikd_cli.knobs import nearest
from cikd_cli.locks import holder

FORMAT = 1


def read_record(path: Path) -> dict[str, Any]:
    """The run.json of the run at `path`.

    Raises:
        CikdError: no such run, no run at all, damaged, or of another format.
    """
    file = path / "run.json"
    if not path.exists():
        found = nearest(path.name, [other.parent.name for other in path.parent.glob("*/run.json")])
        hint = f"did you mean {path.parent / found}?" if found else "cikd runs lists the runs"
        raise CikdError(f"There is no run {path}", hint=hint)
    if not file.is_file():
        raise CikdError(f"{path} is not a run: it has no run.json", hint="cikd runs lists the runs")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CikdError(f"{file} is damaged: {error}", hint="copy the run again, whole, or train it again") from None
    if not isinstance(record, dict) or not isinstance(record.get("stage"), str) or "status" not in record:
        raise CikdError(f"{file} was not written by cikd", hint="cikd runs lists the runs")
    for key, kind in (("data", dict), ("model", dict), ("parents", list)):
        if not isinstance(record.get(key, kind()), kind):
            raise CikdError(f"{file} is damaged: its {key!r} is no {kind.__name__}", hint="copy the run again, whole")
    if record.get("format") != FORMAT:
        theirs = record.get("format")
        hint = "pip install --upgrade cikd"
        raise CikdError(f"{path} has the run format {theirs}, and this version reads {FORMAT}", hint=hint)
    return record


def unfinished(path: Path, record: Mapping[str, Any], *, status: str) -> CikdError:
    """The sentence about a run that is not done: still running, stopped, or failed after some epoch."""
    if status == "running":
        return CikdError(
            f"{path} is still running ({holder(path)})", hint="wait for it, or stop it with Ctrl-C in its terminal"
        )
    progress = record.get("progress") or {}
    verb = "failed" if status == "failed" else "stopped"
    when = f"after epoch {progress['epoch']} of {progress['epochs']}" if progress.get("epoch") else "in its first epoch"
    why = f": {record['message']}" if verb == "failed" and record.get("message") else ""
    return CikdError(f"{path} {verb} {when}{why}", hint=f"continue it with  cikd {record['stage']} --resume {path}")


def refuse_edited(path: Path, record: Mapping[str, Any]) -> None:
    """Raise CikdError if the weights or config.toml are not what the record says was written."""
    weights = record.get("weights") or {}
    expected = {
        "config.toml": {record.get("config_sha256"), record.get("config_next_sha256")} - {None},
        str(weights.get("file")): {weights.get("sha256")} - {None},
    }
    for name, sha256 in expected.items():
        if not sha256:
            continue
        file = path / name
        if not file.is_file():
            raise CikdError(f"{file} is missing", hint="copy the run again, whole, or train it again")
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
