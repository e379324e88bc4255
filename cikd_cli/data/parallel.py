"""Work on many image files at once: Pillow and hashing leave the interpreter's lock."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cikd_cli.data.images import pillow_silenced
from cikd_cli.system import cores

_TASK = 16  # items a thread takes at a time

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_threads(function: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """Map in order, a few items a task."""
    tasks = [items[start : start + _TASK] for start in range(0, len(items), _TASK)]
    with pillow_silenced(), ThreadPoolExecutor(min(8, cores())) as pool:
        return [made for task in pool.map(lambda task: [function(item) for item in task], tasks) for made in task]
