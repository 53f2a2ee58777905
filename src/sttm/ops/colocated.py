"""How much each place of a frame resembles the same place of another frame."""

import torch

from sttm.ops.similarity import cosines, needs_rescaling, piece_rows, products, rescaled


def colocated_cosines(
    x: torch.Tensor, frames: int, one: torch.Tensor, other: torch.Tensor
) -> torch.Tensor:
    """Compare pairs of frames place by place.

    Args:
        x: ``(N, C)`` floating and finite, order t, y, x. Not modified, not copied as a whole.
        frames: ``T``; divides ``N``.
        one: ``(E,)`` int64 frames.
        other: ``(E,)`` int64, the frames to compare them with.

    Returns:
        ``(E, N / T)`` float32 cosines.
    """
    field = x.reshape(frames, x.shape[0] // frames, x.shape[1])
    step = piece_rows(field.shape[1] * field.shape[2], x.device)
    square = torch.cat([products(piece, piece, 1) for piece in torch.split(field, step)])
    if needs_rescaling(square):
        return colocated_cosines(rescaled(x), frames, one, other)
    dots = [
        products(field.index_select(0, a), field.index_select(0, b), 1)
        for a, b in zip(torch.split(one, step), torch.split(other, step), strict=True)
    ]
    return cosines(torch.cat(dots), square[one], square[other])
