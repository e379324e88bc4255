"""What `cikd run` can know to be wrong with its later stages before the first one trains for hours."""

import torch

from cikd_cli.config import CurriculumConfig
from cikd_cli.console import Reporter
from cikd_cli.data.order import Steps
from cikd_cli.engine.distributed import choose_hardware
from cikd_cli.engine.precision import choose_precision
from cikd_cli.options import RunOptions
from cikd_cli.stages.ali import tapped_pairs
from cikd_cli.stages.finetune_teacher import build
from cikd_cli.stages.job import describe_network, new_student

CPU = torch.device("cpu")


def look_ahead(config: CurriculumConfig, options: RunOptions, out: Reporter) -> None:
    """Build teacher and student, and try every stage's batches and precision; raises CikdError for what cannot work."""
    hardware = choose_hardware(options.gpus, options.processes or 1)
    job = build(config.finetune_teacher, CPU)
    student, spec = new_student(config.ali, job.spec, classes=job.source.classes)
    tapped_pairs(config.ali, job.spec, spec, images=len(job.source.train))
    for stage in (config.finetune_teacher, config.ali, config.lm):
        choose_precision(stage.precision, hardware.device)
        Steps(
            stage.seed, len(job.source.train), stage.batch_size, rank=0, size=hardware.processes
        )  # for what it raises
    out.fields([("student", describe_network(spec, student))])
