"""A tiny pair of networks for what `cikd bench` compares."""

import torch

from cikd_cli.bench.networks import Case
from cikd_cli.settings.methods import AliConfig, FinetuneTeacherConfig, LmConfig

CPU = torch.device("cpu")
TINY = {"teacher": "scratch", "teacher_width": 24, "teacher_depth": 3, "teacher_heads": 3, "teacher_patch": 8}
STUDENT = {"student": "custom", "student_width": 12, "student_depth": 3, "student_heads": 2, "image_size": 32}


def case(**values):
    both = STUDENT | {"drop_path": 0.0} | values
    return Case(AliConfig(lob=2, **both), LmConfig(**both), FinetuneTeacherConfig(**TINY), num_classes=7)
