"""The seam: what a training method is. One file each; a row of `settings/stages` names its `build`.

A method owns what is trained: every parameter and buffer of the module is optimised, averaged (buffers as they are),
checked, checkpointed and resumed; only its student is the deliverable. It says what it needs, and nobody else asks
which method it is.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.spec import ModelSpec

if TYPE_CHECKING:
    from cikd_cli.models.logit_cache import TeacherCache

Facts = list[tuple[str, str]]  # rows of the header: (label, text)


@dataclass(frozen=True)
class Moment:
    """When a step happens, epochs and steps from 0; whatever is random in a method is a function of it."""

    epoch: int
    step: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Needs:
    """What a method wants of those who train it.

    two_views: the teacher's clean view of each crop beside the student's. views_per_image: as in TrainLoader. scored:
    whether its student classifies, and is scored while it learns. token_decay: whether class token, positions and their
    like are decayed as other weights of two dimensions are. memory: whether it keeps on disk what it has seen.
    """

    two_views: bool = False
    views_per_image: int = 0
    scored: bool = True
    token_decay: bool = False
    memory: bool = False


class Method(Protocol):
    """An nn.Module; student: a child of it. teacher: a FrozenTeacher or None, never trained, moved, wrapped or saved.

    facts: rows of the header.

    A method may also have `flush()`, called by every process at the end of an epoch and before a checkpoint, and
    `together(methods)`, called with several that learn from one teacher in the same steps.
    """

    student: Any
    teacher: Any
    needs: Needs
    facts: Facts

    def __call__(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """Scalar float32 terms; the loss is their sum, so that what is logged is what is optimised."""
        ...


@dataclass(frozen=True)
class Given:
    """What a method is made of; `build(config, given)` raises CikdError for what does not go together.

    student, spec: the network to train, and what it is. teacher, teacher_spec: none where none is named. started:
    whether the student comes from another run. images: how many it will train on. logit_cache: opens the cache of the
    teacher's logits that the config asks for, if any, with rows for the header.
    """

    student: nn.Module
    spec: ModelSpec
    teacher: FrozenTeacher | None
    teacher_spec: ModelSpec | None
    started: str | None
    images: int
    device: torch.device
    logit_cache: Callable[[], tuple["TeacherCache | None", Facts]] = lambda: (None, [])


def settings_of(config: Any, method: Callable[..., Any]) -> dict[str, Any]:
    """The knobs of a config that are keyword arguments of a method, by their common names."""
    wanted = inspect.signature(method).parameters.values()
    names = [parameter.name for parameter in wanted if parameter.kind is parameter.KEYWORD_ONLY]
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
