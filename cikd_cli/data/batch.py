"""What a step gets: images and, for ALI, the teacher's views of the same crops."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Batch:
    """images: (B, 3, H, W) bytes.  targets, index: (B,) int64.  teacher_images: as images, or none.

    index stays on the CPU: it is for looking things up there, and a GPU would have to be waited for.
    """

    images: Tensor
    targets: Tensor
    teacher_images: Tensor | None
    index: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device, copied asynchronously where that is possible."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def split(self, parts: int) -> list["Batch"]:
        """Up to `parts` micro-batches of nearly equal size, in order."""
        teacher = self.teacher_images
        images, targets, index = self.images.chunk(parts), self.targets.chunk(parts), self.index.chunk(parts)
        teachers = teacher.chunk(parts) if teacher is not None else [None] * len(images)
        return [Batch(*part) for part in zip(images, targets, teachers, index, strict=True)]

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; the DataLoader calls this."""
        return self._changed(Tensor.pin_memory)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        teacher = None if self.teacher_images is None else change(self.teacher_images)
        return Batch(change(self.images), change(self.targets), teacher, self.index)
