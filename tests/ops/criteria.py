"""Criteria beside the cosine, each one function: what a `MergeOrder` has to be able to hold."""

from collections.abc import Sequence

import torch

from sttm.ops.links import CellPairs
from sttm.ops.merge_order import MergeOrder, rank_cells
from sttm.ops.quadtree import Quadtree, cell_rows


def distortion_order(trees: Sequence[Quadtree]) -> MergeOrder:
    """Order cells and links by squared error per saved token: one multiplier for both of them.

    Needs weighted pooling. A cell costs the squared distances of its patches from their mean, a
    link those that Ward's criterion names.
    """
    costs = [_errors_per_token(tree) for tree in trees]
    cell_rank, score = rank_cells(trees, [[-cost for cost in levels] for levels in costs])
    link_floor = torch.cat([score, score.new_full((1,), -torch.inf)])
    return MergeOrder(cell_rank, score, link_floor, _joining_gain)


def _errors_per_token(tree: Quadtree) -> list[torch.Tensor]:
    """Return per level but the finest ``(T, h*w)`` float32."""
    patch = tree.squares[0].sum(dim=1).view(tree.frames, -1)
    levels = []
    for level in range(1, tree.num_levels):
        count = tree.tables.patches[level].flatten()
        square = tree.squares[level].sum(dim=1).view(tree.frames, -1)
        total = torch.zeros_like(square).index_add_(1, tree.tables.cell[level], patch)
        error = (total - count * square).clamp(min=0)
        levels.append((error / (count - 1).clamp(min=1)).float())
    return levels


def _joining_gain(tree: Quadtree, pairs: CellPairs) -> torch.Tensor:
    """Return ``(E,)`` float32: minus the squared error that joining the two cells adds."""
    (one, n), (other, m) = (
        _cells(tree, token, level)
        for token, level in ((pairs.token, pairs.level), (pairs.other_token, pairs.other_level))
    )
    return -(n * m / (n + m) * (one - other).square().sum(dim=1)).float()


def _cells(
    tree: Quadtree, token: torch.Tensor, level: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cells' ``(E, C)`` float64 features and their ``(E,)`` numbers of patches."""
    feature = torch.zeros(len(token), tree.levels[0].shape[1], dtype=torch.float64)
    patches = torch.zeros(len(token), dtype=torch.float64)
    for number in range(tree.num_levels):
        index = (level == number).nonzero().squeeze(1)
        rows = cell_rows(tree, token[index], number)
        count = tree.tables.patches[number].flatten()
        feature[index] = tree.levels[number][rows].double()
        patches[index] = count[rows % count.shape[0]].double()
    return feature, patches


def random_order(trees: Sequence[Quadtree]) -> MergeOrder:
    """Order cells and links by numbers that mean nothing, with floors far from cosines."""
    generator = torch.Generator().manual_seed(len(trees) + trees[0].frames)
    scores = [
        [torch.randint(-9, 9, own.shape, generator=generator).float() for own in tree.scores[1:]]
        for tree in trees
    ]
    cell_rank, score = rank_cells(trees, scores)
    floor = 400 * torch.rand(score.shape[0], generator=generator) - 300
    link_floor = torch.cat([floor.sort(descending=True).values, floor.new_full((1,), -torch.inf)])
    return MergeOrder(cell_rank, score, link_floor, _meaningless)


def _meaningless(tree: Quadtree, pairs: CellPairs) -> torch.Tensor:
    key = (pairs.token * 7 + pairs.level) * 31 + pairs.other_token * 5 + pairs.other_level
    return (key * 2654435761 % 1009).float() - 700 + tree.num_levels
