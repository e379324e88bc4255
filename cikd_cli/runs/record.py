"""The types in a run.json, as far as anything reads them; a key may be missing (see `records.Fields`)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, defer_build=True)


class Parent(_Part):
    """A run this one was made from; knob: the one that named it; path: a name beside this run, or a whole path."""

    stage: str
    knob: str
    path: Annotated[str, Field(pattern="^[^\\x00]*$")]
    sha256: str | None = None


class Data(_Part):
    """What the images were."""

    name: str = ""
    fingerprint: str = ""
    split: str = ""
    train: Count = 0
    val: Count = 0
    test: Count = 0
    classes: Count = 0


class Model(_Part):
    """The part of a ModelSpec that is read from here; the weights file has all of it."""

    builder: str = ""
    arguments: dict[str, Any] = {}
    heads: list[Count] = []
    classes: list[str] = []
    mean: list[Number] = []
    std: list[Number] = []


class Progress(_Part):
    """How far training came."""

    epoch: Count = 0
    epochs: Count = 0


class Weights(_Part):
    """The deliverable."""

    file: str = ""
    sha256: str = ""


class Result(_Part):
    """The end of training."""

    epochs: Count = 0
    seconds: Number = 0
    top1: Number | None = None


class Record(_Part):
    """A whole run.json."""

    id: str | None = None
    order: Count = 0
    status: Literal["running", "done", "failed", "interrupted"]
    seconds: Number | None = None
    message: str = ""
    started: str = ""
    finished: str = ""
    argv: list[str] = []
    seed: int = 0
    recipe: str | None = None
    compiled: bool | None = None
    curriculum: str | None = None
    versions: dict[str, str] = {}
    hardware: dict[str, str | int | None] = {}
    config_sha256: str | None = None
    config_next_sha256: str | None = None
    images: dict[Literal["held-out.txt", "trained-on.txt"], str] = {}
    parents: list[Parent] = []
    data: Data = Data()
    model: Model = Model()
    progress: Progress | None = None
    weights: Weights | None = None
    result: Result | None = None
