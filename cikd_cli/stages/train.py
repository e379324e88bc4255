"""`cikd finetune-teacher`, `cikd ali`, `cikd lm`, and whatever else makes a run: rows of one table."""

from cikd_cli.training.begin import run

__all__ = ["run"]
