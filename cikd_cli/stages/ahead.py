"""What `cikd run` can know to be wrong with its later stages before the first one trains for hours."""

import torch

from cikd_cli.config import CurriculumConfig
from cikd_cli.console import Reporter
from cikd_cli.data.order import Steps
from cikd_cli.stages.ali import tapped_pairs
from cikd_cli.stages.finetune_teacher import build
from cikd_cli.stages.job import describe_network, new_student

CPU = torch.device("cpu")


def look_ahead(config: CurriculumConfig, out: Reporter) -> None:
    """Build teacher and student, and ask every stage for its batches; raises CikdError for what cannot work."""
    job = build(config.finetune_teacher, CPU)
    student, spec = new_student(config.ali, job.spec, classes=job.source.classes)
    tapped_pairs(config.ali, job.spec, spec, images=len(job.source.train))
    for stage in (config.finetune_teacher, config.ali, config.lm):
        Steps(stage.seed, len(job.source.train), stage.batch_size, rank=0, size=1)
    out.fields([("student", describe_network(spec, student))])
