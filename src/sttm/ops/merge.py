"""A merge of one video: its cells, the links between frames, and the plan that they make."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from sttm.ops.components import connected_components, forest_roots, published_groups
from sttm.ops.links import Links, Parent, find_links, parent_links
from sttm.ops.quadtree import Cut, Quadtree, boxes, cut
from sttm.plan import MergePlan

Linking = Literal["directed", "components", "published"]


@dataclass(frozen=True)
class Merge:
    """What one video becomes.

    Args:
        cut: the ``M`` cells that the spatial step emits.
        links: the links between them that were used.
        root: ``(M,)`` int64, the cell that represents every cell's group: its first one.
        spatial: the spatial threshold; None if no cell was merged.
        temporal: the temporal threshold; None if no link was used.
    """

    cut: Cut
    links: Links
    root: torch.Tensor
    spatial: float | None
    temporal: float | None

    @property
    def is_root(self) -> torch.Tensor:
        """``(M,)`` bool: the cells that represent a group."""
        return self.root == torch.arange(self.root.shape[0], device=self.root.device)

    @property
    def num_tokens(self) -> int:
        """Tokens that are left."""
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
    links = Links.none(cells.anchor.device)
    if temporal is not None:
        links = find_links(tree, cells).at_least(temporal)
    if linking == "directed":
        parents = parent_links(links, cells.num_cells, parent)
        root = follow_parents(parents, cells.num_cells, tree.frames)
    else:
        label = connected_components if linking == "components" else published_groups
        root = label(links.earlier, links.later, cells.num_cells)
    return Merge(cells, links, root, spatial, temporal)


def follow_parents(links: Links, num_cells: int, frames: int) -> torch.Tensor:
    """Follow every cell's only link until a cell has none.

    Args:
        links: at most one for each later cell.
        num_cells: ``M``.
        frames: ``T``; no path is longer than ``max(1, T - 1)`` links.

    Returns:
        ``(M,)`` int64 roots.
    """
    parent = torch.arange(num_cells, device=links.earlier.device)
    parent[links.later] = links.earlier
    return forest_roots(parent, depth=frames - 1)


def to_plan(tree: Quadtree, merge: Merge) -> MergePlan:
    """Turn a merge into a plan.

    Args:
        tree: the pyramid.
        merge: its cells and their roots.

    Returns:
        a plan of means over cells (with weighted pooling: over patches), whose ``info`` is that of
        `sttm.STTM.plan`.
    """
    cells = merge.cut
    output = (merge.is_root.cumsum(0) - 1)[merge.root]
    num_cells = torch.bincount(output)
    anchor = cells.anchor[merge.is_root]
    group = output[cells.cell]
    if tree.pooling.weighted:
        weight = 1.0 / torch.bincount(group)[group].float()
    else:
        patch = torch.arange(tree.patches_per_frame, device=group.device).repeat(tree.frames)
        weight = tree.tables.share[cells.level, patch] / num_cells[group]
    info: dict[str, Any] = {
        "spatial_threshold": merge.spatial,
        "temporal_threshold": merge.temporal,
        "tokens_after_spatial": cells.num_cells,
        "links": len(merge.links),
        "levels": tuple(tree.sizes),
        "boxes": boxes(tree, anchor, cells.level[anchor]),
        "cells": num_cells,
    }
    return MergePlan(group, weight, anchor, info, "input" if tree.pooling.published else "float32")
