"""Teachers, students, their weights files, and the taps into them."""

from cikd_cli.models.taps import QKV, tap_qkv
from cikd_cli.models.teachers import create_teacher
from cikd_cli.models.vit import create_student, sincos_positions

__all__ = ["QKV", "create_student", "create_teacher", "sincos_positions", "tap_qkv"]
