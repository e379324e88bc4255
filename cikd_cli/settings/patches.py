"""Patches and image sides: what tiles what, and the patch that a network's name gives away."""

import re

from cikd_cli.errors import CikdError

STUDENT_PATCH = 16  # of a student without a teacher
_IN_NAME = re.compile(r"patch(\d{1,3})(?!\d)")


def patch_of(name: str | None) -> int | None:
    """The patch side that a timm name tells, as 14 of vit_small_patch14_dinov2; None if it tells none."""
    found = _IN_NAME.search(name or "")
    return int(found[1]) if found else None


def check_patch(image_size: int, patch_size: int, *, command: str = "") -> None:
    """Refuse an image side that the patches do not tile; command: where another side can be asked for."""
    if not patch_size or image_size % patch_size:
        below = max(image_size // max(patch_size, 1), 1) * patch_size
        raise CikdError(
            f"The image size {image_size} is not a multiple of the patch size {patch_size}.",
            hint=f"{command} --image-size {below}".strip(),
        )
