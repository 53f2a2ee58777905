"""Segments of a video: runs of frames with similar means, and how still each place is in them.

Source: PruneVid, arXiv 2412.16117, section 3.2.
"""

import itertools

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
    """Cluster the frames, and cut the video where the cluster changes for good.

    Args:
        means: ``(T, C)`` floating.
        clusters: in [1, T].
        neighbours: frames that a frame's density is measured on, itself included.

    Returns:
        ``(S,)`` int64, ascending, from 0: the first frame of every segment.
    """
    label = density_peaks(means, neighbours, clusters).label
    lasting = lasting_runs(label.tolist())
    return torch.tensor([start for start, _ in lasting], device=means.device)


def lasting_runs(labels: list[int]) -> list[tuple[int, int]]:
    """Cut a row of labels into the longest runs of each label; the rest joins its neighbours.

    A run is dissolved if its label has a longer one, or if it is a single place. What is dissolved
    between two runs takes the label of the longer one, of equally long ones the left. From left to
    right: the left run is as long as what joined it made it.

    Args:
        labels: one per place.

    Returns:
        label changes as pairs of the first place and the label; a single one if nothing lasts.
    """
    runs, at = list[tuple[int, int, int]](), 0
    for label, places in itertools.groupby(labels):
        runs.append((at, len(list(places)), label))
        at += runs[-1][1]
    longest = {label: max(n for _, n, other in runs if other == label) for label in labels}
    kept = [run for run in runs if run[1] == longest[run[2]] > 1]
    result = [(0, kept[0][2] if kept else labels[0])]
    for (start, length, label), (later, size, other) in itertools.pairwise(kept):
        end = start + length
        if other != label:
            result.append((end if size > end - result[-1][0] else later, other))
    return result


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
