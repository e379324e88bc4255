"""Stage 1, Attention Locality Imitation (eq. 2-6): copy the teacher's QK and VV relations, without labels."""

from collections.abc import Callable, Sequence
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.errors import CikdError
from cikd_cli.kernels.relation_kl import relation_kl, why_not_fused
from cikd_cli.methods import Facts, Given, Moment, Needs
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.network import head_counts, patch_size, width
from cikd_cli.models.spec import ModelSpec
from cikd_cli.models.taps import QKV, tap_qkv
from cikd_cli.settings.methods import AliConfig

__all__ = ["Ali", "ali_loss", "build", "relation_kl", "share_teacher"]


def build(config: AliConfig, given: Given) -> "Ali":
    """ALI on the blocks that the config names; raises CikdError for blocks and heads that cannot be compared."""
    assert given.teacher is not None
    assert given.teacher_spec is not None
    if given.started is not None:
        _check_alike(given, given.teacher_spec)
    pairs = _tapped_pairs(config, given)
    method = Ali(
        given.student,
        given.teacher,
        pairs=pairs,
        mean=given.spec.mean,
        std=given.spec.std,
        qk=config.qk,
        vv=config.vv,
        two_views=any(config.jitter),
    )
    relations = _describe_relations(config, pairs, given.images)
    method.facts = [("relations", relations), *_describe_kernel(given, pairs)]
    return method


class Ali(nn.Module):
    """The student sees the jittered view, the teacher the clean one; pairs are (teacher block, student block)."""

    def __init__(
        self,
        student: Any,
        teacher: FrozenTeacher,
        *,
        pairs: Sequence[tuple[int, int]],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        qk: bool = True,
        vv: bool = True,
        two_views: bool = True,
    ) -> None:
        super().__init__()
        if not (qk or vv):
            raise CikdError("ALI needs at least one kind of relation.", hint="drop --no-qk or --no-vv")
        self.student = student
        self.teacher = teacher
        self.needs = Needs(two_views=two_views, scored=False, token_decay=True)  # decayed as the released stage 1 does
        self.facts = Facts()
        self.pairs = tuple(pairs)
        self.mean, self.std = mean, std
        self.shared_taps: Callable[[Tensor], dict[int, QKV]] | None = None
        self.relations = [name for name, wanted in (("qk", qk), ("vv", vv)) if wanted]
        freeze_untapped(student, max(block for _, block in self.pairs))

    def forward(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's signature
        """{"qk", "vv"}: scalars, each summed over the pairs. Never reads batch.targets."""
        clean = batch.images if batch.teacher_images is None else batch.teacher_images
        teacher = (self.shared_taps or self.look)(clean)
        images = normalise(batch.images, self.mean, self.std)
        student = tap_qkv(self.student, images, [s for _, s in self.pairs])
        return ali_loss([(teacher[t], student[s]) for t, s in self.pairs], relations=self.relations)

    @staticmethod
    def together(methods: Sequence["Ali"]) -> None:
        """As share_teacher; refuses students that would learn the same."""
        if len({method.pairs for method in methods}) < len(methods):
            raise CikdError("pairs name the blocks themselves, so --lob has none to choose.", hint="leave one out")
        share_teacher(methods)

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


def _tapped_pairs(config: AliConfig, given: Given) -> tuple[tuple[int, int], ...]:
    """(teacher block, student block) pairs; blocks must exist and heads be as many, as they are compared by index."""
    assert given.teacher is not None
    of_teacher, of_student = head_counts(given.teacher.network), head_counts(given.student)
    deep, pairs = len(of_teacher), config.pairs
    if pairs is None:
        pairs = ((1, 1), (learning_objective_block(config.lob, images=given.images, depth=deep), len(of_student)))
    for t, s in pairs:
        if not (1 <= t <= deep and 1 <= s <= len(of_student)):
            raise CikdError(
                f"The pair {t}:{s} is outside the teacher's 1..{deep} and the student's 1..{len(of_student)}.",
                hint=f"--pairs 1:1,{deep}:{len(of_student)}",
            )
        if of_teacher[t - 1] != of_student[s - 1]:
            raise CikdError(
                f"Block {t} of the teacher has {of_teacher[t - 1]} heads, block {s} of the student "
                f"{of_student[s - 1]}; relations are compared head by head.",
                hint=f"--pairs 1:1,{t}:{len(of_student)} (the student's end blocks have the teacher's heads)",
            )
    return pairs


def _check_alike(given: Given, teacher: ModelSpec) -> None:
    """Refuse a student from elsewhere that sees other patches than the teacher."""
    assert given.teacher is not None
    found = {
        "image_size": (given.spec.image_size, teacher.image_size),
        "patch_size": (patch_size(given.student), patch_size(given.teacher.network)),
        "mean": (given.spec.mean, teacher.mean),
        "std": (given.spec.std, teacher.std),
    }
    for what, (its, wanted) in found.items():
        if its != wanted:
            raise CikdError(
                f"The student of {given.started} has {what} {its}, the teacher {wanted}.",
                hint="leave --from out, or take the teacher the student was made for",
            )


def _describe_kernel(given: Given, pairs: Sequence[tuple[int, int]]) -> Facts:
    """On a GPU, whether the loss is fused, or why not."""
    if given.device.type != "cuda" or given.teacher is None:
        return []
    networks = (given.teacher.network, given.student)
    widest = max(
        (width(network) or 0) // head_counts(network)[block - 1]
        for pair in pairs
        for network, block in zip(networks, pair, strict=True)
    )
    reason = why_not_fused(given.device, given.teacher.dtype, width=widest)
    return [("loss", "fused in Triton" if reason is None else f"a few images at a time ({reason})")]


def _describe_relations(config: AliConfig, pairs: Sequence[tuple[int, int]], images: int) -> str:
    kinds = " and ".join(name for name, wanted in (("QK", config.qk), ("VV", config.vv)) if wanted)
    listed = ", ".join(f"teacher block {t} → student block {s}" for t, s in pairs)
    if config.lob == "auto" and not config.pairs:
        listed += (
            f"  (auto, a heuristic: {images:,} images; of 12 blocks 10 from 20,000 images, "
            "9 from 5,000, 8 from 2,000, else 7)"
        )
    return f"{kinds} of {listed}"


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
