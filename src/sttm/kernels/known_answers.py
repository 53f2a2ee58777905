"""A frame whose answers are known, for kernels that have never run on a device before."""

import torch

from sttm.kernels.pair_cosines import pair_cosines
from sttm.kernels.pooled_scores import pooled_scores
from sttm.kernels.segment_sums import segment_sums


def wrong_kernels(device: torch.device) -> list[str]:
    """Run each kernel on four tokens of 8 channels; return the names of those that give others.

    The tokens are (3, 4, 0, ...) and (4, 3, 0, ...) in turn, so that their mean is (3.5, 3.5, 0,
    ...), with the square 24.5 and the cosine 24.5 / (5 * sqrt(24.5)) to each of them.
    """
    x = torch.zeros(4, 8, device=device)
    x[0::2, :2], x[1::2, :2] = x.new_tensor([3.0, 4.0]), x.new_tensor([4.0, 3.0])
    mean = torch.zeros(1, 1, 8, device=device)
    squares = torch.zeros(5, 1, dtype=torch.float64, device=device)
    score = torch.zeros(1, 1, device=device)
    child_square, parent_square = squares[None, :4], squares[None, 4:]
    quarter = x.new_full((1, 1), 0.25)
    pooled_scores(x[None], child_square, (2, 2), quarter, None, mean, parent_square, score, False)
    pair = torch.tensor([[0, 1], [1, 4]], device=device)
    wanted = torch.ones(2, dtype=torch.bool, device=device)
    cosines = pair_cosines(x, mean[0], squares, pair[:, 0], pair[:, 1], wanted)
    token, offset = torch.arange(4, device=device), torch.tensor([0, 2, 4], device=device)
    sums = segment_sums(x, token, offset, x.new_full((4,), 0.5))
    half, to_mean = [3.5, 3.5, *[0.0] * 6], 24.5 / (5 * 24.5**0.5)
    pooled = torch.cat([mean.flatten(), squares.flatten(), score.flatten()]).tolist()
    answers = {
        "pooled_scores": (pooled, [*half, *[25.0] * 4, 24.5, to_mean]),
        "pair_cosines": (cosines.tolist(), [24 / 25, to_mean]),
        "segment_sums": (sums.flatten().tolist(), half * 2),
    }
    return [
        name
        for name, (got, expected) in answers.items()
        if not torch.allclose(torch.tensor(got), torch.tensor(expected), rtol=1e-6, atol=0)
    ]
