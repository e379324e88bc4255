"""The frozen teacher's logits on disk, in half precision: what one run has computed, every later one reads.

A cache is a folder of parts. Each is a safetensors file of one view-epoch with `rows`, (M,) int32, the images it knows,
and `logits`, (M, C) float16. A part is never changed: each process writes a new one for the rows it has added, and
whoever reads merges them. A part's name ends in the hash of its content, so no two processes ever write different
things to one file, and damage shows.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from cikd_cli.files import disk_error, remove_leftovers, to_json, write_atomically
from cikd_cli.models.frozen import FrozenTeacher

KEY_FILE = "key.json"


class TeacherCache:
    """Logits of one teacher for one law of views; one view-epoch at a time is in memory.

    key: what the folder is for, written beside the parts.  images, classes: N, C.  warn: is told of damaged parts.
    Like the teacher no nn.Module: nothing that holds one trains, moves, wraps or saves it.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        *,
        images: int,
        classes: int,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.key = key
        self.warn = warn
        self._epoch = -1
        self._logits = torch.zeros(images, classes, dtype=torch.float16)
        self._filled = torch.zeros(images, dtype=torch.bool)
        self._fresh: list[tuple[Tensor, Tensor]] = []  # rows (M,) and logits (M, C) that no part holds yet

    def logits(self, teacher: FrozenTeacher, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Class logits in float32, (B, C), on the device of `images`; the teacher sees the images not known yet only.

        images: (B, 3, H, W), the views of view-epoch `epoch`.  index: (B,), on the CPU.
        Fresh logits are rounded as stored ones are, so that a run that writes equals one that reads.
        """
        if epoch != self._epoch:
            self.flush()
            self._load(epoch)
        missing = (~self._filled[index]).nonzero()[:, 0]
        logits = self._logits[index].to(images.device, non_blocking=True)
        if len(missing):
            places = missing.to(images.device)
            if len(missing) == len(index):
                fresh = teacher.logits(images).half()
            else:  # blocks are compiled for fixed shapes, and each count of missing rows would be a new one
                with torch.compiler.set_stance("force_eager"):
                    fresh = teacher.logits(images[places]).half()
            logits[places] = fresh
            self._fresh.append((index[missing], fresh))  # stays on its device: a copy a step would wait for the GPU
        return logits.float()

    def flush(self) -> None:
        """Write the fresh rows as one part; what other processes have written meanwhile is read with the next batch.

        Raises:
            CikdError: the disk is full or the folder cannot be written.
        """
        if self._fresh:
            self._write()
        self._epoch = -1

    def _write(self) -> None:
        rows = torch.cat([rows for rows, _ in self._fresh])
        logits = torch.cat([logits for _, logits in self._fresh]).cpu()
        self._fresh.clear()
        content = save({"rows": rows.int(), "logits": logits})
        self._make_folder()
        write_atomically(self.folder / f"epoch-{self._epoch + 1:04d}-{_digest(content)}.safetensors", content)

    def parts(self, epoch: int) -> list[Path]:
        """The files of a view-epoch, in the order in which they are merged."""
        return sorted(self.folder.glob(f"epoch-{epoch + 1:04d}-{'[0-9a-f]' * 16}.safetensors"))

    def _load(self, epoch: int) -> None:
        self._epoch = epoch
        self._filled.zero_()
        for path in self.parts(epoch):
            part = self._read(path)
            if part is not None:
                rows = part["rows"].long()
                self._logits[rows], self._filled[rows] = part["logits"], True

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        """A part, or none: it is gone, cannot be read just now, or is damaged and goes, to be written again."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:  # perhaps for a moment, on a shared disk
            self.warn(f"{path} cannot be read ({error.strerror}); its logits are computed again")
            return None
        if path.stem.endswith(_digest(content)):
            part: dict[str, Tensor] = load(content)
            return part
        self.warn(f"{path} is damaged; its logits are computed again")
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.folder) from error
        remove_leftovers(self.folder)
        key_file = self.folder / KEY_FILE
        if not key_file.exists():
            write_atomically(key_file, (to_json(self.key, indent=2) + "\n").encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
