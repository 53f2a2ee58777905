"""Spherical k-means: clusters by cosine, as many as asked for, none of them empty."""

import torch

from sttm.ops.selection import descending_rank, stable_topk
from sttm.ops.similarity import most_similar_rows, paired_products, unit_rows
from sttm.plan import MergePlan

# The first centres are chosen in so many steps.
_STEPS = 16


def spherical_kmeans(points: torch.Tensor, count: int, rounds: int) -> tuple[torch.Tensor, int]:
    """Cluster points by their cosine with the clusters' means.

    A round assigns every point to the most similar centre, and makes the unit-length mean of each
    cluster its new centre. An empty cluster takes the point that is least similar to its own
    centre; the most similar point of a cluster never leaves it for that reason. It ends when
    nothing changes any more.

    Cost ``rounds * n * count * C`` multiplications; memory of a chunk of similarities.

    Args:
        points: ``(n, C)`` float32 rows of length 1, or zeros.
        count: clusters, in [1, n].
        rounds: the most rounds, at least 1.

    Returns:
        the cluster of every point, ``(n,)`` int64 in [0, count) in the order of their first points,
        and the rounds that were made.
    """
    centre, before = points[farthest_first(points, count)], None
    for done in range(1, rounds + 1):
        label, similarity = _nearest(points, centre)
        plan = MergePlan.from_labels(_fill_empty(label, similarity, count))
        if before is not None and torch.equal(plan.group, before):
            return plan.group, done
        centre, before = unit_rows(plan.apply(points)), plan.group
    return plan.group, rounds


def farthest_first(points: torch.Tensor, count: int) -> torch.Tensor:
    """Choose points that are unlike each other: the first one, then those least like any chosen.

    The farthest-first traversal (Gonzalez, 1985), with a sixteenth of the points in each step.

    Args:
        points: ``(n, C)`` float32 rows of length 1, or zeros.
        count: how many, in [1, n].

    Returns:
        ``(count,)`` int64, all different.
    """
    new = chosen = torch.zeros(1, dtype=torch.int64, device=points.device)
    likeness = points.new_full((points.shape[0],), -torch.inf, dtype=torch.float64)
    while len(chosen) < count:
        likeness = torch.maximum(likeness, _nearest(points, points[new])[1])
        likeness[chosen] = torch.inf
        new = stable_topk(-likeness, min(-(-count // _STEPS), count - len(chosen)))
        chosen = torch.cat([chosen, new])
    return chosen


def _nearest(points: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every point's most similar centre ``(n,)``, and their inner product in float64."""
    label = most_similar_rows(points, centre)
    every = torch.arange(points.shape[0], device=points.device)
    # Once more for the chosen pairs: equal points get equal numbers.
    return label, paired_products(points, every, centre, label, 1).squeeze(1)


def _fill_empty(label: torch.Tensor, similarity: torch.Tensor, count: int) -> torch.Tensor:
    """Give every empty cluster one point.

    Args:
        label: ``(n,)`` int64 in [0, count).
        similarity: ``(n,)``, of every point with the centre of its cluster.
        count: clusters, at most ``n``.
    """
    empty = (torch.bincount(label, minlength=count) == 0).nonzero().squeeze(1)
    rank = descending_rank(similarity)
    first = torch.full((count,), len(label), device=label.device)
    first = first.scatter_reduce_(0, label, rank, "amin")
    movable = torch.where(rank > first[label], rank, -1)
    return label.index_put((movable.topk(len(empty)).indices,), empty)
