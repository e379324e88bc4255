"""RunDir: the folder a stage writes and the next one reads; created, opened, logged to, finished, locked.

run.json  config.toml  held-out.txt  trained-on.txt  metrics.jsonl  model.safetensors  checkpoints/  analysis/  log.txt
"""

import hashlib
import json
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from cikd_cli.errors import CikdError
from cikd_cli.files import disk_error, file_sha256, to_json, write_atomically
from cikd_cli.runs import locks, numbering
from cikd_cli.runs.metrics import read_metrics
from cikd_cli.runs.reading import read_config, read_record, read_records, refuse_edited, unfinished, without_none
from cikd_cli.runs.record import FORMAT, Parent, Record, Result
from cikd_cli.settings.stages import CLASSES, STAGES, training_stages


class RunDir:
    """A run directory.

    record: run.json as last written or read; change it through the methods. whole: whether its files were looked at.
    """

    def __init__(self, path: Path, record: Record) -> None:
        self.path = path
        self.record = record
        self.whole = True
        self._seconds = record.seconds
        self._since = time.monotonic()

    @classmethod
    def create(
        cls,
        runs_dir: Path,
        stage: str,
        *,
        prefix: str,
        name: str | None,
        record: Mapping[str, Any],
        config: Mapping[str, Any],
    ) -> "RunDir":
        """Claim `<prefix>-001` (or the next number, or `name`) and write run.json and config.toml into it.

        Raises:
            CikdError: the name is taken or unusable, or the folder cannot be written.
        """
        path = numbering.claim(Path(runs_dir), prefix=prefix, name=name, stage=stage)
        about = {"format": FORMAT, "stage": stage, "id": secrets.token_hex(8), "status": "running", "started": _now()}
        run = cls(path, Record.model_validate(json.loads(to_json({**about, **record}))))
        run.write_config(config)
        return run

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        stages: Collection[str] | None = None,
        giving: str | None = None,
        finished: bool = True,
        whole: bool = True,
    ) -> "RunDir":
        """The one gate to an existing run.

        stages: which stages are acceptable, or all those that give `giving`; finished: whether it must be done; whole:
        whether its files, and those of its parents, are read to see that they are what the run wrote, which takes time
        where weights are large.

        Raises:
            CikdError: missing, not a run, damaged, of another stage, unfinished, or edited since it was written.
        """
        path = Path(path)
        if path.name in ("", ".."):  # "." is a run too, and needs its parent folder's name
            path = path.resolve()
        run = cls(path, read_record(path))
        if stages is None and giving is not None:
            stages = training_stages(giving)
        if stages is not None and run.stage not in stages:
            wanted = " or ".join(stages)
            own = [entry for entry in run.record.parents if entry.stage in stages]
            hint = f"its {wanted} run is {run.resolve_parent(own[0])}" if own else "cikd runs lists the runs"
            raise CikdError(f"{path} is of the stage {run.stage}, but {wanted} is needed", hint=hint)
        if finished and run.record.status != "done":
            raise unfinished(path, run.record, status=run.status)
        run.whole = whole
        if whole:
            refuse_edited(path, run.record)
        return run

    @property
    def stage(self) -> str:
        """The stage that made the run."""
        return self.record.stage

    @property
    def status(self) -> str:
        """running, done, failed or interrupted; a run that says running and that nobody holds was interrupted."""
        recorded = self.record.status
        return "interrupted" if recorded == "running" and not self.is_locked() else recorded

    @property
    def result(self) -> Result:
        """How its training ended.

        Raises:
            CikdError: it has not, or the record has lost it.
        """
        if self.record.result is None:
            raise CikdError(f"{self.path / 'run.json'} has no result", hint="cikd runs shows its state")
        return self.record.result

    @property
    def sha256(self) -> str | None:
        """The hash of its weights; None before it has any."""
        return self.record.weights.sha256 if self.record.weights else None

    @property
    def weights(self) -> Path:
        """The deliverable."""
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of what --resume needs."""
        return self.path / "checkpoints"

    @property
    def analysis(self) -> Path:
        """The folder of eval, mad and cka results; made if it is not there."""
        return self.make_folder(self.path / "analysis")

    def update(self, **values: Any) -> None:
        """Set top-level keys of run.json, without those given as None; while running, its seconds go along."""
        self.record = self.record.but(**values)
        if self.record.status == "running":
            self.record = self.record.but(seconds=self._elapsed())
        content = to_json(self.record.model_dump(exclude_none=True), indent=2)
        write_atomically(self.path / "run.json", (content + "\n").encode())

    def finish(self, result: Mapping[str, Any], weights_sha256: str | None = None) -> None:
        """Mark the run done; without a hash given, the weights file is hashed if there is one."""
        if weights_sha256 is None and self.weights.is_file():
            weights_sha256 = file_sha256(self.weights)
        weights = {"file": self.weights.name, "sha256": weights_sha256} if weights_sha256 else None
        orders = [record.order for _, record in read_records(self.path.parent) if isinstance(record, Record)]
        self.update(
            status="done",
            message=None,
            finished=_now(),
            order=max(orders, default=0) + 1,  # which run is the newest, whatever clocks say
            seconds=self._elapsed(),
            weights=weights,
            result=dict(result),
        )

    def fail(self, status: str, message: str) -> None:
        """Mark the run `failed` or `interrupted`, with the sentence that says why."""
        self.update(status=status, finished=_now(), seconds=self._elapsed(), message=message)

    def write_best(self, content: bytes) -> None:
        """Write the weights that score best on validation images, beside those of the last epoch."""
        write_atomically(self.path / "model-best.safetensors", content)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line torn by a crash is left out."""
        return read_metrics(self.path)

    def config(self) -> dict[str, Any]:
        """config.toml; a knob that is none is absent."""
        return read_config(self.path, self.stage)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.toml, every value but none, and note its hash in run.json; whole also if killed between them."""
        path, content = self.path / "config.toml", tomli_w.dumps(without_none(config)).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        if self.record.config_sha256 is not None:
            self.update(config_next_sha256=sha256)
        write_atomically(path, content)
        self.update(config_next_sha256=None, config_sha256=sha256)

    def write_texts(self, files: Mapping[str, str]) -> None:
        """Write the lists of images, by file name, and note their hashes in run.json."""
        encoded = {name: text.encode() for name, text in files.items()}
        for name, content in encoded.items():
            write_atomically(self.path / name, content)
        self.update(images={name: hashlib.sha256(content).hexdigest() for name, content in encoded.items()})

    def resolve_parent(self, entry: Parent) -> Path:
        """Where the parent of an entry lies now."""
        return self.path.parent / entry.path

    def gives(self, what: str) -> bool:
        """Whether others may take this from the run; see `settings/stages`."""
        return what in STAGES[self.stage].gives

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run, and remove what a killed process left half-written; the lock file goes afterwards.

        Raises:
            CikdError: another process holds it, and is named, or has changed it since this one read it.
        """
        with locks.hold(self.path):
            locks.refuse_orphan(self.path)
            if read_record(self.path).model_dump() != self.record.model_dump():
                raise CikdError(
                    f"Another process has gone on with {self.path} meanwhile", hint="cikd runs shows its state"
                )
            yield

    def is_locked(self) -> bool:
        """Whether a process holds the run now."""
        return locks.is_held(self.path)

    def _elapsed(self) -> float:
        return round(self._seconds + time.monotonic() - self._since, 3)

    @staticmethod
    def make_folder(path: Path) -> Path:
        """A folder of the run; made if it is not there."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        return path


def open_classifier(path: str, *, whole: bool = True) -> RunDir:
    """The run at `path`, which has to know classes; whole: as for RunDir.open."""
    run = RunDir.open(path, whole=whole)
    if not run.gives(CLASSES):
        stage = STAGES[run.stage]
        raise CikdError(
            f"{run.path} has no classifier: cikd {stage.command} reads no labels.", hint=stage.next(run.path)
        )
    return run


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
