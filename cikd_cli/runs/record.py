"""run.json as a type: read at the gate, kept, and written again whole."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 2

Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]


class _Part(BaseModel):
    """What is not known here stays as it was read, so that a newer program's record is not cut down."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, defer_build=True, frozen=True)


class Parent(_Part):
    """A run this one was made from; knob: the one that named it; path: a name beside this run, or a whole path."""

    stage: str
    knob: str
    path: Annotated[str, Field(pattern="^[^\\x00]*$")]
    sha256: str | None = None


class Data(_Part):
    """What the images were; fingerprint: of their content; train, val, test, classes: how many."""

    name: str
    fingerprint: str
    split: str
    train: Count
    val: Count
    test: Count
    classes: Count


class Model(_Part):
    """The ModelSpec, as far as it is read from here; the weights file has all of it."""

    builder: str
    arguments: dict[str, Any]
    heads: list[Count]
    classes: list[str]
    mean: list[Number]
    std: list[Number]


class Hardware(_Part):
    """What it ran on."""

    device: str
    cpus: int | None = None
    machine: str = ""


class Progress(_Part):
    """How far training came."""

    epoch: Count
    epochs: Count


class Weights(_Part):
    """The deliverable."""

    file: str
    sha256: str


class Result(_Part):
    """The end of training; top1, top5: of the last epoch on the images of `split`, in percent."""

    epochs: Count
    seconds: Number
    images_per_second: Number
    loss: Number
    split: str | None = None
    top1: Number | None = None
    top5: Number | None = None
    best_val_top1: Number | None = None


class Record(_Part):
    """A whole run.json. order: when it finished among the runs of its folder; images: hashes of its lists of images."""

    format: Literal[2]
    stage: str
    id: str
    status: Literal["running", "done", "failed", "interrupted"]
    started: str
    finished: str | None = None
    order: Count = 0
    seconds: Number = 0
    message: str | None = None
    argv: list[str]
    seed: int
    recipe: str | None = None
    world_size: Count = 1
    compiled: bool | None = None
    curriculum: str | None = None
    git_commit: str | None = None
    versions: dict[str, str]
    hardware: Hardware
    config_sha256: str | None = None
    config_next_sha256: str | None = None
    images: dict[Literal["held-out.txt", "trained-on.txt"], str] = {}
    parents: list[Parent]
    data: Data
    model: Model
    progress: Progress | None = None
    weights: Weights | None = None
    result: Result | None = None

    def but(self, **values: Any) -> "Record":
        """The record with other values, checked; None takes a value away."""
        return Record.model_validate(self.model_dump(exclude_none=True) | values)
