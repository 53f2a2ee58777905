"""M-RoPE positions of merged videos: how they travel with the features, and where they go.

A merged token keeps the position of the token it stands for, and text has the position that it has
without merging. So text positions depend on the grids alone: they are right from the start, even
where the whole video lies in a cached prefix. Those of merged tokens travel with the features, as
columns behind them: two digits to the base 256 per coordinate, which every dtype holds exactly.
"""

from collections.abc import Sequence

import torch

COORDINATES = 3
COLUMNS = 2 * COORDINATES
_BASE = 256


def pack(positions: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Write positions as columns.

    Args:
        positions: ``(3, M)`` int64 in [0, 65535], from the start of the video.
        like: its dtype and device are the result's.

    Returns:
        ``(M, 6)``: first the high digits, then the low ones.
    """
    digits = torch.cat([positions // _BASE, positions % _BASE])
    return digits.T.to(device=like.device, dtype=like.dtype)


def unpack(columns: torch.Tensor) -> torch.Tensor:
    """Read `pack`'s columns: ``(3, M)`` int64."""
    digits = columns.T.long()
    return digits[:COORDINATES] * _BASE + digits[COORDINATES:]


def place_rows(
    positions: torch.Tensor,
    is_media: torch.Tensor,
    rows: Sequence[torch.Tensor],
    width: int,
    num_computed: int,
) -> torch.Tensor:
    """Put the positions that travel with features to their places; nothing else changes.

    It may be called for any chunk of a prompt, in any order and again.

    Args:
        positions: ``(3, N)`` int64 of the whole prompt.
        is_media: ``(N,)`` bool: tokens of images and videos.
        rows: the chunk's features, in the order of the prompt: ``(n, width)``, or
            ``(n, width + 6)`` if their positions travel with them.
        width: of the features alone.
        num_computed: tokens of the prompt in front of the chunk.

    Returns:
        ``(3, N)`` int64.
    """
    index = torch.arange(len(is_media), device=is_media.device)
    last_text = torch.where(is_media, -1, index).cummax(0).values
    places = index[num_computed:][is_media[num_computed:]]
    positions = positions.clone()
    for part in rows:
        at, places = places[: len(part)], places[len(part) :]
        if part.shape[1] > width:
            text = last_text[at]
            start = torch.where(text < 0, 0, positions[0, text.clamp(min=0)] + 1)
            positions[:, at] = start + unpack(part[:, width:]).to(positions.device)
    return positions
