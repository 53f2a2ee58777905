"""A merge of one video: its cells, the links between frames, and the plan that they make."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from sttm.ops.components import connected_components, forest_roots, published_groups
from sttm.ops.links import Links, Parent, links_above, parent_links
from sttm.ops.quadtree import Cut, Quadtree, boxes, cut, largest_square
from sttm.plan import MergePlan

Linking = Literal["directed", "components", "published"]


@dataclass(frozen=True)
class Merge:
    """What one video becomes. What only the device knows is a scalar tensor there.

    Args:
        cut: the cells that the spatial step emits.
        links: the links between them that were used.
        root: ``(N,)`` int64, the token that stands for every token's group: its first anchor.
        spatial: the spatial threshold; None or NaN if no cell was merged.
        temporal: the temporal threshold; None or infinite if no link was used.
        reached: whether the budget was met, a bool.
    """

    cut: Cut
    links: Links
    root: torch.Tensor
    spatial: float | torch.Tensor | None
    temporal: float | torch.Tensor | None
    reached: bool | torch.Tensor = True

    @cached_property
    def is_root(self) -> torch.Tensor:
        """``(N,)`` bool: the tokens that stand for a group."""
        return self.root == torch.arange(self.root.shape[0], device=self.root.device)

    @property
    def num_tokens(self) -> int:
        """Tokens that are left. Waits for the device."""
        return int(self.is_root.sum())


def merge_at(
    tree: Quadtree,
    spatial: float | None,
    temporal: float | None,
    linking: Linking = "directed",
    parent: Parent = "most_similar",
) -> Merge:
    """Merge one video at two thresholds.

    Args:
        tree: the scored pyramid.
        spatial: least score at which a cell replaces its children; None: no spatial step.
        temporal: least cosine of a link; None: no temporal step.
        linking: which links become merges, see `sttm.STTM`.
        parent: with ``"directed"``: which of its links a cell follows.
    """
    cells = cut(tree, spatial)
    links = links_above(tree, cells, temporal)
    if linking == "directed":
        parents = parent_links(links, tree.num_tokens, parent)
        root = follow_parents(cells, parents, tree.frames)
    else:
        label = connected_components if linking == "components" else published_groups
        found = links.selected()
        root = label(found.earlier, found.later, tree.num_tokens)[cells.anchor]
    return Merge(cells, links, root, spatial, temporal)


def follow_parents(cells: Cut, links: Links, frames: int) -> torch.Tensor:
    """Follow every cell's only link until a cell has none.

    Args:
        cells: the cells.
        links: one entry per token, from `parent_links`.
        frames: ``T``; no path is longer than ``max(1, T - 1)`` links.

    Returns:
        ``(N,)`` int64 roots: of every token, not only of anchors.
    """
    parent = torch.where(links.exists, links.earlier, cells.anchor)
    return forest_roots(parent, depth=1 + max(1, frames - 1))


@dataclass(frozen=True)
class MergeNumbers:
    """What a merge knows of itself, read back from the device.

    Args:
        tokens: tokens that are left.
        cells: cells that the spatial step emits.
        links: links that were used.
        largest_square: the largest squared norm of an input token.
        spatial: see `Merge`; None if no cell was merged.
        temporal: see `Merge`; None if no link was used.
        reached: see `Merge`.
    """

    tokens: int
    cells: int
    links: int
    largest_square: float
    spatial: float | None
    temporal: float | None
    reached: bool


def read_numbers(trees: Sequence[Quadtree], merges: Sequence[Merge]) -> list[MergeNumbers]:
    """Read what all merges know of themselves: the only time that planning waits for the device."""
    rows = []
    for tree, merge in zip(trees, merges, strict=True):
        counts = (merge.is_root.sum(), merge.cut.is_anchor.sum(), merge.links.exists.sum())
        found = [*counts, largest_square(tree)]
        found += [
            value
            for value in (merge.spatial, merge.temporal, merge.reached)
            if isinstance(value, torch.Tensor)
        ]
        rows.append(torch.stack([value.double() for value in found]))
    read = iter(torch.cat(rows).tolist())
    numbers = []
    for merge in merges:
        tokens, cells, links = (int(next(read)) for _ in range(3))
        largest = next(read)
        spatial, temporal, reached = (
            next(read) if isinstance(value, torch.Tensor) else value
            for value in (merge.spatial, merge.temporal, merge.reached)
        )
        numbers.append(
            MergeNumbers(
                tokens,
                cells,
                links,
                largest,
                None if spatial is None or math.isnan(spatial) else spatial,
                None if temporal == math.inf else temporal,
                bool(reached),
            )
        )
    return numbers


def to_plan(tree: Quadtree, merge: Merge, numbers: MergeNumbers | None = None) -> MergePlan:
    """Turn a merge into a plan.

    Args:
        tree: the pyramid.
        merge: its cells and their roots.
        numbers: what the merge knows of itself, if it was read already.

    Returns:
        a plan of means over cells (with weighted pooling: over patches), whose ``info`` is that of
        `sttm.STTM.plan`.
    """
    numbers = numbers or read_numbers([tree], [merge])[0]
    cells, root, is_root = merge.cut, merge.root, merge.is_root
    token = torch.arange(tree.num_tokens, device=tree.device)
    output = is_root.cumsum(0) - 1
    # Every root writes its own entry, all other tokens the one behind the last.
    anchor = token.new_empty(numbers.tokens + 1)
    anchor = anchor.scatter_(0, torch.where(is_root, output, numbers.tokens), token)[:-1]
    num_cells = torch.zeros_like(token).scatter_add_(0, root, cells.is_anchor.long())
    if tree.pooling.weighted:
        size = torch.zeros_like(token).scatter_add_(0, root, torch.ones_like(token))
        weight = 1.0 / size[root].float()
    else:
        level = cells.level.view(tree.frames, -1)
        weight = tree.tables.share.gather(0, level).flatten() / num_cells[root]
    info: dict[str, Any] = {
        "spatial_threshold": numbers.spatial,
        "temporal_threshold": numbers.temporal,
        "tokens_after_spatial": numbers.cells,
        "links": numbers.links,
        "levels": tuple(tree.sizes),
        "boxes": boxes(tree, anchor, cells.level[anchor]),
        "cells": num_cells[anchor],
    }
    accumulate: Literal["input", "float32"] = "input" if tree.pooling.published else "float32"
    return MergePlan(output[root], weight, anchor, info, accumulate)
