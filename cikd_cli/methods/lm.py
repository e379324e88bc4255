"""Stage 2, Logit Mimicking (eq. 7-14): labels, and decoupled distillation of the teacher's logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise, view_epoch
from cikd_cli.methods import Facts, Given, Method, Moment, Needs, settings_of, supervised
from cikd_cli.methods.supervised import cross_entropy
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.logit_cache import TeacherCache
from cikd_cli.models.readout import class_logits
from cikd_cli.settings.methods import LmConfig


def build(config: LmConfig, given: Given) -> Method:
    """Logit Mimicking, or labels alone where nothing is to be distilled."""
    cached: Facts
    if not config.distill:
        method: Any = supervised.build(config, given)
        cached = [("teacher cache", "not used: --no-distill")] if config.teacher_cache else []
    else:
        assert given.teacher is not None
        cache, cached = given.logit_cache()
        knobs = settings_of(config, LogitMimicking)
        method = LogitMimicking(
            given.student, given.teacher, **knobs | {"mean": given.spec.mean, "std": given.spec.std, "cache": cache}
        )
    method.facts = [("objective", _describe(config, given.spec.num_classes)), *cached]
    found: Method = method
    return found


class LogitMimicking(nn.Module):
    """Teacher and student see the same augmented image; the distillation rises over `kd_warmup_epochs`.

    cache: where the teacher's logits are kept, if they are.  views_per_image: as in TrainLoader.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: FrozenTeacher,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        alpha: float = 4.0,
        w_tckd: float = 1.0,
        temperature: float = 1.0,
        nckd_weighting: str = "unweighted",
        kd_t2: bool = True,
        kd_warmup_epochs: int = 5,
        smoothing: float = 0.1,
        cache: TeacherCache | None = None,
        views_per_image: int = 0,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.cache = cache
        self.views_per_image = views_per_image
        self.needs, self.facts = Needs(views_per_image=views_per_image, memory=cache is not None), Facts()
        self.mean, self.std = mean, std
        self.w_tckd = w_tckd
        self.kd_warmup_epochs = kd_warmup_epochs
        self.smoothing = smoothing
        self.distillation: dict[str, Any] = {
            "alpha": alpha,
            "temperature": temperature,
            "nckd_weighting": nckd_weighting,
            "t_squared": kd_t2,
        }

    def forward(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """{"ce", "tckd", "nckd"}: scalars; their sum is the objective of docs/method.md."""
        images = normalise(batch.images, self.mean, self.std)
        weight = warmup_weight(moment.epoch, self.kd_warmup_epochs)
        # no teacher in the first epoch, which distils nothing; else it comes before the student, so that what it needs
        # for a moment is not on top of what the student keeps for backward
        teacher = self.teacher_logits(images, batch.index, moment.epoch) if weight else None
        student = class_logits(self.student, images)
        terms = {"ce": cross_entropy(student, batch.targets, smoothing=self.smoothing)}
        if teacher is None:
            return terms | {"tckd": terms["ce"].detach() * 0, "nckd": terms["ce"].detach() * 0}
        distilled = decoupled_kd(student, teacher, batch.targets, **self.distillation)
        return terms | {
            "tckd": weight * self.w_tckd * distilled["tckd"],
            "nckd": weight * distilled["nckd"],
        }

    def teacher_logits(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """The teacher's logits in float32, (B, C), computed or looked up; images: normalised, index: (B,)."""
        if self.cache is None:
            return self.teacher.logits(images)
        return self.cache.logits(self.teacher, images, index, view_epoch(epoch, self.views_per_image))

    def flush(self) -> None:
        """Write the teacher's logits that no file holds yet."""
        if self.cache is not None:
            self.cache.flush()


def warmup_weight(epoch: int, warmup_epochs: int) -> float:
    """g(epoch) = min(epoch / warmup, 1) for an integer epoch from 0 (docs/method.md; released code, after DKD)."""
    return min(epoch / warmup_epochs, 1.0) if warmup_epochs else 1.0


def decoupled_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 4.0,
    temperature: float = 1.0,
    nckd_weighting: str = "unweighted",
    t_squared: bool = True,
) -> dict[str, Tensor]:
    """Eq. 11-14, decoupled distillation: {"tckd": scalar, "nckd": alpha x scalar}; their sum is L_LM.

    student_logits, teacher_logits: (B, C); targets: (B,). nckd_weighting "teacher" multiplies NCKD by the teacher's
    non-target mass (eq. 12 as printed), "unweighted" is DKD's and the released form. float32 inside, by log-sum-exp
    differences; the target is excluded exactly. Two classes make NCKD zero.
    """
    log_s, log_not_s, others_s = _decouple(student_logits, targets, temperature)
    log_t, log_not_t, others_t = _decouple(teacher_logits.detach(), targets, temperature)
    tckd = log_t.exp() * (log_t - log_s) + log_not_t.exp() * (log_not_t - log_not_s)
    nckd = (others_t.exp() * (others_t - others_s)).sum(dim=1)
    if nckd_weighting == "teacher":
        nckd = nckd * log_not_t.exp()
    factor = temperature**2 if t_squared else 1.0
    return {"tckd": factor * tckd.mean(), "nckd": factor * alpha * nckd.mean()}


def _describe(config: LmConfig, classes: int) -> str:
    labels = f"cross entropy, smoothing {config.smoothing:g}"
    if not config.distill:
        return labels
    nckd = "NCKD is zero for two classes" if classes == 2 else f"α {config.alpha:g} × NCKD ({config.nckd_weighting})"
    return (
        f"{labels} + g(epoch) × (TCKD + {nckd}), T {config.temperature:g}, "
        f"g rises over {config.kd_warmup_epochs} epochs"
    )


def _decouple(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p of the target (B,), of all the rest (B,), and among the rest (B, C - 1)."""
    z = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32) / temperature
    classes = z.shape[1]
    target = z.gather(1, targets[:, None]).squeeze(1)
    columns = torch.arange(classes - 1, device=z.device)  # gathered, not masked: a GPU waits for the size of a mask
    others = z.gather(1, columns + (columns >= targets[:, None]))
    rest = others.logsumexp(dim=1)
    # log p = z_y - logsumexp(z) loses its digits for a confident network; log-sigmoid of the margin keeps them
    return F.logsigmoid(target - rest), F.logsigmoid(rest - target), others - rest[:, None]
