"""Criteria beside the cosine, each one function: what a `MergeOrder` has to be able to hold."""

from collections.abc import Sequence

import torch

from sttm.ops.merge_order import MergeOrder, rank_cells
from sttm.ops.quadtree import Quadtree


def distortion_order(trees: Sequence[Quadtree]) -> MergeOrder:
    """Order cells and links by squared error per saved token: one multiplier for both of them.

    Needs weighted pooling. A cell costs the squared distances of its patches from their mean, a
    link those that Ward's criterion names.
    """
    costs = [_errors_per_token(tree) for tree in trees]
    cell_rank, score = rank_cells(trees, [-cost for cost in costs])
    link_floor = torch.cat([score, score.new_full((1,), -torch.inf)])
    return MergeOrder(cell_rank, score, link_floor, _joining_gain)


def _errors_per_token(tree: Quadtree) -> torch.Tensor:
    """Return ``(T, K)`` float32."""
    square = tree.squares.sum(dim=1)
    patch = square[: tree.num_tokens].view(tree.frames, -1)
    mean = square[tree.num_tokens :].view(tree.frames, -1)
    total = torch.zeros_like(mean)
    for place in tree.tables.place[1:] - tree.patches_per_frame:
        total.index_add_(1, place, patch)
    count = tree.tables.patches[tree.patches_per_frame :].double()
    error = (total - count * mean).clamp(min=0)
    return (error / (count - 1).clamp(min=1)).float()


def _joining_gain(
    tree: Quadtree, row: torch.Tensor, other: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Return ``(E,)`` float32: minus the squared error that joining the two cells adds."""
    features = torch.cat([tree.x.double(), tree.coarse.flatten(0, 1).double()])
    patches = torch.zeros(len(features), dtype=torch.float64)
    patches[tree.rows] = tree.tables.patches.double()
    n, m = patches[row], patches[other]
    return -(n * m / (n + m) * (features[row] - features[other]).square().sum(dim=1)).float()


def random_order(trees: Sequence[Quadtree]) -> MergeOrder:
    """Order cells and links by numbers that mean nothing, with floors far from cosines."""
    generator = torch.Generator().manual_seed(len(trees) + trees[0].frames)
    scores = [
        torch.randint(-9, 9, tree.scores.shape, generator=generator).float() for tree in trees
    ]
    cell_rank, score = rank_cells(trees, scores)
    floor = 400 * torch.rand(score.shape[0], generator=generator) - 300
    link_floor = torch.cat([floor.sort(descending=True).values, floor.new_full((1,), -torch.inf)])
    return MergeOrder(cell_rank, score, link_floor, _meaningless)


def _meaningless(
    tree: Quadtree, row: torch.Tensor, other: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    return ((row * 7 + other * 5) * 2654435761 % 1009).float() - 700 + tree.num_levels
