"""Exact choices of the highest scores: equal scores go to the smallest index, on every device.

``torch.topk`` promises no order among equal values, so only its values are used, never its indices.
"""

from collections.abc import Callable

import torch


def stable_topk(score: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the ``count`` largest scores.

    Args:
        score: ``(n,)`` of any real dtype, without NaN; -inf is the least.
        count: in [0, n].

    Returns:
        ``(count,)`` int64, ascending; among equal scores those with the smallest index.
    """
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=score.device)
    least = score.topk(count).values.min()
    above, equal = score > least, score == least
    room = count - above.sum()
    return (above | (equal & (equal.cumsum(0) <= room))).nonzero().squeeze(1)


def descending_rank(score: torch.Tensor) -> torch.Tensor:
    """Rank every row: 0 for the largest score; equal scores by index.

    Args:
        score: ``(..., n)`` without NaN.

    Returns:
        ``(..., n)`` int64, a permutation of 0..n-1 in every row.
    """
    # Adding zero turns -0.0 into 0.0: some sorts tell them apart.
    order = (score + 0).sort(dim=-1, descending=True, stable=True).indices
    place = torch.arange(score.shape[-1], device=score.device).expand(score.shape)
    return torch.empty_like(order).scatter_(-1, order, place)


def stable_topk_per_row(score: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mark the ``counts[r]`` largest scores of every row ``r``.

    Args:
        score: ``(rows, n)`` without NaN.
        counts: ``(rows,)`` int64 in [0, n].

    Returns:
        ``(rows, n)`` bool; among equal scores those with the smallest index.
    """
    return descending_rank(score) < counts[:, None]


def apportion(parts: torch.Tensor, total: int, most_each: torch.Tensor) -> torch.Tensor:
    """Split ``total`` whole tokens in proportion to ``parts``, with a limit for each part.

    Parts that would exceed their limit get the limit, and the others split the rest in the same
    proportion; then every part gets the floor of its proportion, and what is left goes one by one
    to the largest remainders (equal ones by index).

    Args:
        parts: ``(n,)`` >= 0, finite. Parts below their limit that are all zero count as equal.
        total: in [0, sum of ``most_each``].
        most_each: ``(n,)`` int64 >= 0.

    Returns:
        ``(n,)`` int64, at most ``most_each``, summing to exactly ``total``.
    """
    # On the CPU in float64, so that every device rounds alike.
    limit = most_each.cpu()
    assert total <= int(limit.sum())
    given, open_ = torch.zeros_like(limit), limit > 0
    left = total
    while left > 0:
        weight = torch.where(open_, parts.detach().cpu().double(), 0.0)
        if float(weight.sum()) == 0.0:
            weight = open_.double()
        # Rounded, so that parts that differ by noise only are treated as equal ones.
        wanted = (weight / weight.sum() * left).round(decimals=9)
        full = open_ & (wanted >= limit)
        if bool(full.any()):
            given = torch.where(full, limit, given)
            open_ = open_ & ~full
            left = total - int(given.sum())
            continue
        whole = wanted.floor().long()
        left -= int(whole.sum())
        whole[stable_topk(torch.where(open_, wanted - whole, -1.0), left)] += 1
        given, left = given + whole, 0
    return given.to(most_each.device)


def by_one_ratio(counts: Callable[[float], torch.Tensor], total: int) -> torch.Tensor:
    """Find the counts that one ratio gives to all parts, and that sum to exactly ``total``.

    Where no ratio does, the first of the parts that grow next grow.

    Args:
        counts: the ``(n,)`` int64 counts of a ratio in [0, 1]; none falls when the ratio rises.
        total: between the sums at 0 and at 1.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if int(counts(middle).sum()) < total:
            low = middle
        else:
            high = middle
    found, above = counts(low), counts(high)
    if int(above.sum()) == total:
        return above
    while int(found.sum()) < total:
        grow = (above > found).nonzero().squeeze(1)[: total - int(found.sum())]
        found[grow] += 1
    return found


def evenly_spaced(count: int, n: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Choose ``count`` evenly spaced places out of ``n``: the middles of ``count`` equal spans.

    Args:
        count: in [0, n].
        n: places.
        device: where the result goes.

    Returns:
        ``(count,)`` int64, ascending, all different.
    """
    return (2 * torch.arange(count, device=device) + 1) * n // (2 * max(1, count))
