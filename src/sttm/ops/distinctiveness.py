"""The similarity of every token to the mean of the video and to the mean of its frame.

Source: VidCom2, arXiv 2505.14454; the bandwidths are those of the authors' code.
"""

import torch

from sttm.ops.selection import stable_topk
from sttm.ops.similarity import needs_rescaling, piece_rows, products, rescaled

BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


def gaussian_likeness(x: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the similarity of every token to the mean of the video and to that of its frame.

    ``sum over a of exp(-d**2 / (2 * a))`` for the distance ``d`` between the token's feature,
    scaled to length 1, and the mean of such features.

    Args:
        x: ``(N, C)`` floating and finite, order t, y, x. Not modified. Computed in float32.
        frames: ``T``; divides ``N``.

    Returns:
        two ``(T, N / T)`` float32. A zero feature stays zero.
    """
    field = x.reshape(frames, x.shape[0] // frames, x.shape[1])
    step = piece_rows(field.shape[1] * field.shape[2], x.device)
    pieces = torch.split(field, step)
    square = torch.cat([products(piece, piece, 1) for piece in pieces])
    if needs_rescaling(square):
        return gaussian_likeness(rescaled(x), frames)
    scale = torch.where(square > 0, square.rsqrt(), 0.0).float()
    scales = torch.split(scale, step)
    # Sums in float64 round to the same float32 in whatever order a device adds.
    means = [(p.float() * s).mean(dim=1, dtype=torch.float64) for p, s in zip(pieces, scales)]
    frame_mean = torch.cat(means)
    video_mean, frame_mean = frame_mean.mean(dim=0).float(), frame_mean.float()
    frame_means = torch.split(frame_mean[:, None], step)
    to_video = [products(piece, video_mean, 1) for piece in pieces]
    to_frame = [products(piece, mean, 1) for piece, mean in zip(pieces, frame_means)]
    length = (square * scale * scale)[..., 0]
    return (
        _likeness(length, torch.cat(to_video) * scale, products(video_mean, video_mean, 1)),
        _likeness(
            length, torch.cat(to_frame) * scale, products(frame_mean, frame_mean, 1)[:, None]
        ),
    )


def _likeness(square: torch.Tensor, dot: torch.Tensor, mean_square: torch.Tensor) -> torch.Tensor:
    distance = (square + mean_square[..., 0] - 2.0 * dot[..., 0]).clamp(min=0.0)
    scores = [torch.exp(distance / (-2.0 * width)) for width in BANDWIDTHS]
    return torch.stack(scores).sum(dim=0).float()


def steady_channels(x: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``(N, count)``: the channels that vary least over the tokens, in their order.

    Args:
        x: ``(N, C)`` floating and finite.
        count: in [1, C].
    """
    return x[:, stable_topk(-x.double().var(dim=0, correction=0), count)]
