"""How large LLaVA's frames are."""

from typing import Any


def pooled_side(vision: Any) -> int:
    """Count the rows, and the columns, of tokens in a frame pooled to half its size, rounded up.

    Args:
        vision: configuration of the vision tower, whose frames are square.
    """
    patches: int = vision.image_size // vision.patch_size
    return -(-patches // 2)
