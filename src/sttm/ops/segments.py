"""Segments of a video: runs of frames with similar means, and how still each place is in them.

Source: PruneVid, arXiv 2412.16117, section 3.2.
"""

import torch

from sttm.ops.clustering import density_peaks
from sttm.ops.selection import stable_topk
from sttm.ops.similarity import needs_rescaling, piece_rows, products, rescaled


def frame_means(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Return ``(T, C)`` float64: the mean feature of every frame.

    Args:
        x: ``(N, C)`` floating, order t, y, x.
        frames: ``T``; divides ``N``.
    """
    field = x.reshape(frames, x.shape[0] // frames, x.shape[1])
    return field.mean(dim=1, dtype=torch.float64)


def segment_starts(means: torch.Tensor, clusters: int, neighbours: int) -> torch.Tensor:
    """Cluster the frames, and cut the video wherever the cluster changes.

    Args:
        means: ``(T, C)`` floating.
        clusters: in [1, T].
        neighbours: nearest frames that a frame's density is measured on.

    Returns:
        ``(S,)`` int64, ascending, from 0: the first frame of every segment. ``S`` is larger than
        the number of clusters where a cluster comes back.
    """
    label = density_peaks(means, neighbours, clusters).label
    changes = (label[1:] != label[:-1]).nonzero().squeeze(1) + 1
    return torch.cat([changes.new_zeros(1), changes])


def fewer_segments(means: torch.Tensor, starts: torch.Tensor, count: int) -> torch.Tensor:
    """Join neighbouring segments until ``count`` are left, those with the most similar means first.

    Args:
        means: ``(T, C)`` floating, the frames' means.
        starts: ``(S,)`` int64 from `segment_starts`.
        count: in [1, S].

    Returns:
        ``(count,)`` int64: the starts that are left.
    """
    ends = torch.cat([starts[1:], starts.new_full((1,), means.shape[0])])
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    mean = torch.stack([means[start:end].mean(dim=0) for start, end in pairs]).double()
    unit = torch.nn.functional.normalize(mean, dim=1)
    joined = stable_topk((unit[1:] * unit[:-1]).sum(dim=1), starts.shape[0] - count) + 1
    stays = torch.ones_like(starts, dtype=torch.bool)
    stays[joined] = False
    return starts[stays]


def more_segments(means: torch.Tensor, starts: torch.Tensor, count: int) -> torch.Tensor:
    """Cut segments until there are ``count``, where neighbouring frames are least similar.

    Args:
        means: ``(T, C)`` floating, the frames' means.
        starts: ``(S,)`` int64 from `segment_starts`.
        count: in [S, T].

    Returns:
        ``(count,)`` int64: the old starts and new ones, ascending.
    """
    unit = torch.nn.functional.normalize(means.double(), dim=1)
    unlike = -(unit[1:] * unit[:-1]).sum(dim=1)
    unlike[starts[1:] - 1] = -2.0  # cut already
    added = stable_topk(unlike, count - starts.shape[0]) + 1
    return torch.cat([starts, added]).sort().values


def stillness(x: torch.Tensor, frames: int, starts: torch.Tensor) -> torch.Tensor:
    """Return how similar the frames of each segment are at each place.

    Args:
        x: ``(N, C)`` floating and finite, order t, y, x. Not modified.
        frames: ``T``; divides ``N``.
        starts: ``(S,)`` int64: the segments' first frames.

    Returns:
        ``(S, N / T)`` float32: the mean cosine over all pairs of the segment's frames; 1 for a
        segment of one frame.
    """
    field = x.reshape(frames, x.shape[0] // frames, x.shape[1])
    step = piece_rows(field.shape[1] * field.shape[2], x.device)
    pieces = torch.split(field, step)
    square = torch.cat([products(piece, piece, 1) for piece in pieces])
    if needs_rescaling(square):
        return stillness(rescaled(x), frames, starts)
    scale = torch.where(square > 0, square.rsqrt(), 0.0).float()
    ends = [*starts.tolist()[1:], frames]
    result = []
    for start, end in zip(starts.tolist(), ends, strict=True):
        total = torch.zeros(field.shape[1:], device=x.device)
        for frame in range(start, end):
            total += field[frame].float() * scale[frame]
        # The square of the sum of unit vectors counts every pair twice, and each one itself.
        own = (square * scale * scale)[start:end].sum(dim=0)
        length = end - start
        pairs = max(1, length * (length - 1))
        mean = (products(total, total, 1) - own)[:, 0] / pairs
        result.append(mean.float() if length > 1 else torch.ones_like(mean).float())
    return torch.stack(result)
