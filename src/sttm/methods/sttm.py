"""STTM: merge similar neighbours inside every frame, then from frame to frame."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch

from sttm.budget import check_keep, largest_within, token_budget
from sttm.errors import BudgetError, ConfigError
from sttm.grid import VideoGrid
from sttm.methods.registry import register
from sttm.ops.components import connected_components, forest_roots, published_groups
from sttm.ops.links import LinkMemory, Links, find_links, parents
from sttm.ops.pyramid import level_sizes, used_sizes
from sttm.ops.quadtree import Cut, Pooling, Quadtree, boxes, cut, grow
from sttm.plan import MergePlan

Linking = Literal["directed", "components", "published"]
Parent = Literal["most_similar", "top_left"]

DEFAULT_SPATIAL = 0.80
DEFAULT_TEMPORAL = 0.60
# The published settings lie about on this diagonal: 0.85/0.65, 0.80/0.60.
_DIAGONAL = 0.20


@dataclass(frozen=True)
class _Merge:
    """One point of the method: two thresholds and what they lead to."""

    thresholds: tuple[float | None, float | None]
    cut: Cut
    root: torch.Tensor
    num_links: int
    num_tokens: int


@register
@dataclass(frozen=True)
class STTM:
    """Merge redundant video tokens: a quadtree cut per frame, then links between frames.

    Without ``keep`` the number of tokens follows the content. With ``keep`` the thresholds are
    searched along the published diagonal (temporal = spatial - 0.2) for the largest number of
    tokens that is AT MOST the budget; meeting it exactly is a later feature. Where one token per
    root cell is still too many, the pyramid goes on to 1x1.

    Args:
        keep: budget: a ratio in (0, 1] as a float, or a count as an integer. Only thresholds of
            None may stand beside it.
        spatial_threshold: least cosine in [-1, 1] at which a cell replaces its children; higher
            keeps more tokens. None: no spatial step. ``"auto"``: 0.80, or searched with ``keep``.
        temporal_threshold: least cosine in [-1, 1] at which cells of neighbouring frames merge.
            None: no temporal step. ``"auto"``: 0.60, or searched with ``keep``.
        root_level: largest cells, counted from the coarsest level (0; 2x2 for 14x14); a frame with
            fewer levels keeps its finest grid, and -1 always does: no spatial step.
        linking: ``"directed"``: every cell merges into at most one cell of the previous frame.
            ``"components"``: all links count. ``"published"``: what the published code computes.
        parent: with ``"directed"``: the most similar overlapping cell, or the top-left one.
        weighted: mean over patches instead of over cells.
        per_head: number of equal parts of the channels; similarity is the mean of their cosines.
            None: one cosine over all channels.
    Raises: ConfigError: a value out of range, or ``keep`` together with a threshold.
    Source: STTM, arXiv 2507.07990, sections 3.1-3.2. Differs: grids of any shape; local groups
        unless ``linking="published"``.
    """

    name: ClassVar[str] = "sttm"
    query_aware: ClassVar[bool] = False

    keep: float | int | None = None
    spatial_threshold: float | Literal["auto"] | None = "auto"
    temporal_threshold: float | Literal["auto"] | None = "auto"
    root_level: int = 1
    linking: Linking = "directed"
    parent: Parent = "most_similar"
    weighted: bool = False
    per_head: int | None = None

    def __post_init__(self) -> None:
        _check_threshold("spatial_threshold", self.spatial_threshold)
        _check_threshold("temporal_threshold", self.temporal_threshold)
        _check_integer("root_level", self.root_level, -1)
        _check_choice("linking", self.linking, get_args(Linking))
        _check_choice("parent", self.parent, get_args(Parent))
        if self.per_head is not None:
            _check_integer("per_head", self.per_head, 1)
        if not isinstance(self.weighted, bool):
            raise ConfigError(f"weighted: got {self.weighted!r}, expected True or False.")
        if self.parent != "most_similar" and self.linking != "directed":
            raise ConfigError(
                f"parent: got {self.parent!r} with linking={self.linking!r}, expected it only with "
                "linking='directed': the other linkings do not choose parents."
            )
        if self.keep is None:
            return
        check_keep(self.keep)
        for name in ("spatial_threshold", "temporal_threshold"):
            value = getattr(self, name)
            if value not in ("auto", None):
                raise ConfigError(
                    f"{name}: got {value!r} together with keep={self.keep!r}, expected one or the "
                    "other: a budget searches its own thresholds. None may switch a step off."
                )

    @torch.no_grad()
    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan the merge of one video.

        Args:
            x: ``(N, C)`` floating, order t, y, x. Not modified. Similarity in float32.
            grid: the video's shape in tokens.
        Returns: a plan with ``num_out`` in [1, N]. Its ``info``: ``spatial_threshold``,
            ``temporal_threshold`` (used ones; None: step off; above 1: nothing merges),
            ``tokens_after_spatial``, ``links``, ``levels`` (sizes, finest first), ``boxes``
            ``(M, 5)`` int64 (t, y0, x0, y1, x1 of each representative cell), ``cells`` ``(M,)``
            int64 (cells merged into each token).
        Raises: ConfigError: ``x`` does not fit the grid, is not finite, or ``per_head`` does not
            divide its channels. BudgetError: ``keep`` is out of reach with a step switched off.
        """
        grid.check(x)
        heads = self.per_head or 1
        if x.shape[1] % heads:
            raise ConfigError(
                f"per_head: got {heads} heads for {x.shape[1]} channels, expected a divisor."
            )
        if self.keep is not None:
            return self._plan_within(x, grid, token_budget(self.keep, grid.num_tokens))
        tree = self._grow(x, grid, self._sizes(grid))
        thresholds = (
            DEFAULT_SPATIAL if self.spatial_threshold == "auto" else self.spatial_threshold,
            DEFAULT_TEMPORAL if self.temporal_threshold == "auto" else self.temporal_threshold,
        )
        return self._to_plan(tree, self._merge(tree, thresholds))

    def _sizes(self, grid: VideoGrid) -> list[tuple[int, int]]:
        spatial = self.spatial_threshold is not None
        return used_sizes(grid.height, grid.width, self.root_level if spatial else -1)

    def _grow(self, x: torch.Tensor, grid: VideoGrid, sizes: list[tuple[int, int]]) -> Quadtree:
        pooling = Pooling(self.weighted, self.per_head or 1, self.linking == "published")
        return grow(x, grid.frames, sizes, pooling)

    def _plan_within(self, x: torch.Tensor, grid: VideoGrid, budget: int) -> MergePlan:
        """Search the largest count within the budget; go on to 1x1 cells only if it is needed."""
        pyramids = [self._sizes(grid)]
        if self.spatial_threshold is not None and self.root_level >= 0:
            pyramids.append(level_sizes(grid.height, grid.width, to_single=True))
        for sizes in pyramids:
            tree = self._grow(x, grid, sizes)
            merge = self._search(tree, budget)
            if merge is not None:
                return self._to_plan(tree, merge)
        raise BudgetError(
            f"keep: got {self.keep!r}, {budget} tokens for {grid}, expected more: {self} cannot "
            "reach so few. Allow more tokens, or both merging steps."
        )

    def _search(self, tree: Quadtree, budget: int) -> _Merge | None:
        memory = LinkMemory(tree)
        no_spatial, no_temporal = self.spatial_threshold is None, self.temporal_threshold is None

        def evaluate(spatial: float) -> _Merge:
            temporal = max(-1.0, spatial - _DIAGONAL)
            thresholds = (None if no_spatial else spatial, None if no_temporal else temporal)
            return self._merge(tree, thresholds, memory)

        # At the upper end both thresholds are above 1, so that every token is kept.
        return largest_within(evaluate, budget, low=-1.0, high=1.25)

    def _merge(
        self,
        tree: Quadtree,
        thresholds: tuple[float | None, float | None],
        memory: LinkMemory | None = None,
    ) -> _Merge:
        spatial, temporal = thresholds
        cells = cut(tree, spatial)
        num_cells = cells.anchor.shape[0]
        root, num_links = torch.arange(num_cells, device=cells.anchor.device), 0
        if temporal is not None and tree.frames > 1:
            links = find_links(tree, cells, memory).at_least(temporal)
            root, num_links = self._roots(links, num_cells, tree.frames), links.earlier.shape[0]
        tokens = int((root == torch.arange(num_cells, device=root.device)).sum())
        return _Merge(thresholds, cells, root, num_links, tokens)

    def _roots(self, links: Links, num_cells: int, frames: int) -> torch.Tensor:
        if self.linking == "directed":
            parent = parents(links, num_cells, first=self.parent == "top_left")
            return forest_roots(parent, depth=frames - 1)
        join = connected_components if self.linking == "components" else published_groups
        return join(links.earlier, links.later, num_cells)

    def _to_plan(self, tree: Quadtree, merge: _Merge) -> MergePlan:
        cells = merge.cut
        is_root = merge.root == torch.arange(merge.root.shape[0], device=merge.root.device)
        output = (is_root.cumsum(0) - 1)[merge.root]
        num_cells = torch.bincount(output, minlength=merge.num_tokens)
        anchor = cells.anchor[is_root]
        group = output[cells.cell]
        if self.weighted:
            weight = 1.0 / torch.bincount(group, minlength=merge.num_tokens)[group].float()
        else:
            patch = torch.arange(tree.patches_per_frame, device=group.device).repeat(tree.frames)
            weight = tree.tables.share[cells.level, patch] / num_cells[group]
        info: dict[str, Any] = {
            "spatial_threshold": merge.thresholds[0],
            "temporal_threshold": merge.thresholds[1],
            "tokens_after_spatial": cells.anchor.shape[0],
            "links": merge.num_links,
            "levels": tuple(tree.sizes),
            "boxes": boxes(tree, anchor, cells.level[anchor]),
            "cells": num_cells,
        }
        accumulate: Literal["float32", "input"] = (
            "input" if self.linking == "published" else "float32"
        )
        return MergePlan(group, weight, anchor, info, accumulate)


def _check_threshold(name: str, value: object) -> None:
    if value is None or value == "auto":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -1.0 <= float(str(value)) <= 1.0:
        raise ConfigError(
            f"{name}: got {value!r}, expected a cosine in [-1, 1], 'auto', or None to switch the "
            "step off."
        )


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name}: got {value!r}, expected an integer >= {least}.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")
