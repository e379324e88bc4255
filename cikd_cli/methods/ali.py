"""Stage 1, Attention Locality Imitation (eq. 2-6): copy the teacher's QK and VV relations, without labels."""

from collections.abc import Callable, Sequence

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.errors import CikdError
from cikd_cli.kernels.relation_kl import relation_kl
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.taps import QKV, tap_qkv

__all__ = ["Ali", "ali_loss", "relation_kl", "share_teacher"]


class Ali(nn.Module):
    """The student sees the jittered view, the teacher the clean one; pairs are (teacher block, student block)."""

    def __init__(
        self,
        student: VisionTransformer,
        teacher: FrozenTeacher,
        *,
        pairs: Sequence[tuple[int, int]],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        qk: bool = True,
        vv: bool = True,
    ) -> None:
        super().__init__()
        if not (qk or vv):
            raise CikdError("ALI needs at least one kind of relation.", hint="drop --no-qk or --no-vv")
        self.student = student
        self.teacher = teacher
        self.pairs = tuple(pairs)
        self.mean, self.std = mean, std
        self.shared_taps: Callable[[Tensor], dict[int, QKV]] | None = None
        self.relations = [name for name, wanted in (("qk", qk), ("vv", vv)) if wanted]
        freeze_untapped(student, max(block for _, block in self.pairs))

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's signature
        """{"qk", "vv"}: scalars, each summed over the pairs. Never reads batch.targets."""
        clean = batch.images if batch.teacher_images is None else batch.teacher_images
        teacher = (self.shared_taps or self.look)(clean)
        images = normalise(batch.images, self.mean, self.std)
        student = tap_qkv(self.student, images, [s for _, s in self.pairs])
        return ali_loss([(teacher[t], student[s]) for t, s in self.pairs], relations=self.relations)

    def look(self, clean: Tensor, blocks: Sequence[int] | None = None) -> dict[int, QKV]:
        """What the teacher's `blocks` (none: those of the pairs) make of clean views, (B, 3, H, W) of bytes."""
        if blocks is None:
            blocks = [t for t, _ in self.pairs]
        return self.teacher.taps(normalise(clean, self.mean, self.std), blocks)


def share_teacher(methods: Sequence[Ali]) -> None:
    """Let students of one teacher, normalised alike, look at it together: one pass a batch, for all their blocks."""
    shared = _SharedTaps(methods)
    for method in methods:
        method.shared_taps = shared


class _SharedTaps:
    """The teacher's taps of the views it saw last, which are kept until it sees others."""

    def __init__(self, methods: Sequence[Ali]) -> None:
        self._look = methods[0].look
        self._blocks = sorted({t for method in methods for t, _ in method.pairs})
        self._clean: Tensor | None = None
        self._taps: dict[int, QKV] = {}

    def __call__(self, clean: Tensor) -> dict[int, QKV]:
        if clean is not self._clean:
            self._clean, self._taps = clean, {}  # let go of the old ones first: they would be memory on top
            self._taps = self._look(clean, self._blocks)
        return self._taps


def ali_loss(pairs: Sequence[tuple[QKV, QKV]], *, relations: Sequence[str] = ("qk", "vv")) -> dict[str, Tensor]:
    """Eq. 6 from (teacher, student) pairs of QKV: {"qk": scalar, "vv": scalar}, all weights 1."""
    terms: dict[str, Tensor] = {}
    for teacher, student in pairs:
        for name in relations:
            chosen = [(x.q, x.k) if name == "qk" else (x.v, x.v) for x in (teacher, student)]
            term = relation_kl(chosen[0], chosen[1])
            terms[name] = terms[name] + term if name in terms else term
    return terms


def learning_objective_block(lob: int | str, *, images: int, depth: int) -> int:
    """The teacher block to copy: `lob` itself, or for "auto" a heuristic after Fig. 4, less data, shallower.

    Of 12 blocks: 10 from 20,000 training images, 9 from 5,000, 8 from 2,000, else 7; other depths in proportion.
    """
    if lob == "auto":
        of_twelve = next(block for block, least in ((10, 20_000), (9, 5_000), (8, 2_000), (7, 0)) if images >= least)
        return max(1, round(of_twelve * depth / 12))
    if not 1 <= int(lob) <= depth:
        raise CikdError(
            f"The learning objective block {lob} is outside 1..{depth}, the teacher's blocks.",
            hint=f"--lob {min(max(int(lob), 1), depth)}",
        )
    return int(lob)


def freeze_untapped(student: VisionTransformer, last: int) -> None:
    """Mark what gets no gradient in ALI: everything behind the qkv projection of block `last` (docs/method.md)."""
    for number, block in enumerate(student.blocks, start=1):
        if number < last:
            continue
        block.requires_grad_(False)
        if number == last:
            block.norm1.requires_grad_(True)
            block.attn.qkv.requires_grad_(True)
    student.norm.requires_grad_(False)
    student.head.requires_grad_(False)
