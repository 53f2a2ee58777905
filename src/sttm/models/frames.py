"""Videos that stand in a prompt as a series of images."""

import torch

MAX_GAP = 32


def frame_series(
    input_ids: torch.Tensor, image: torch.Tensor, size: int, max_gap: int = MAX_GAP
) -> list[torch.Tensor]:
    """Find the videos of one row among its image tokens.

    A frame is a run of exactly ``size`` image tokens. Two or more frames form a video when each
    stands at most ``max_gap`` tokens behind the one before and follows the same token as it (tiles
    of one large image follow different ones). Anything else is an image, and left alone: longer
    runs (tiled images) and single frames.

    Args:
        input_ids: ``(N,)`` ids of the row.
        image: ``(N,)`` bool, its image tokens.
        size: tokens of one frame.
        max_gap: most tokens (timestamp, markers) between two frames of one video.

    Returns:
        for each video ``(frames * size,)`` int64, ascending.
    """
    edges = torch.diff(image.long(), prepend=image.new_zeros(1).long())
    starts = (edges == 1).nonzero().squeeze(1).tolist()
    ends = [*(edges == -1).nonzero().squeeze(1).tolist(), len(image)][: len(starts)]
    series: list[list[int]] = []
    before = None
    for start, end in zip(starts, ends):
        token = int(input_ids[start - 1]) if start else None
        if end - start != size:
            before = None
            continue
        if before is not None and token == before[1] and start - before[0] <= max_gap:
            series[-1].append(start)
        else:
            series.append([start])
        before = (end, token)
    return [
        torch.cat([torch.arange(start, start + size) for start in starts])
        for starts in series
        if len(starts) > 1
    ]
