"""What a step gets: images and, for ALI, the teacher's views of the same crops."""

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
        teacher = self.teacher_images
        return Batch(
            self.images.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            None if teacher is None else teacher.to(device, non_blocking=True),
            self.index,
        )

    def split(self, parts: int) -> list["Batch"]:
        """Up to `parts` micro-batches of nearly equal size, in order."""
        teacher = self.teacher_images
        images, targets, index = self.images.chunk(parts), self.targets.chunk(parts), self.index.chunk(parts)
        teachers = teacher.chunk(parts) if teacher is not None else [None] * len(images)
        return [Batch(*part) for part in zip(images, targets, teachers, index, strict=True)]

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; the DataLoader calls this."""
        teacher = self.teacher_images
        return Batch(
            self.images.pin_memory(),
            self.targets.pin_memory(),
            None if teacher is None else teacher.pin_memory(),
            self.index,
        )
