"""STTM: merge similar neighbours inside every frame, then from frame to frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch

from sttm.budget import check_keep, token_budget
from sttm.errors import BudgetError, ConfigError
from sttm.grid import VideoGrid
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.checks import check_count
from sttm.methods.registry import register
from sttm.ops.components import connected_components, forest_roots, published_groups
from sttm.ops.links import Links, find_links, parent_links, spanning_forest
from sttm.ops.path import BudgetPath, Point
from sttm.ops.pyramid import level_sizes, used_sizes
from sttm.ops.quadtree import Cut, Pooling, Quadtree, boxes, cut, grow
from sttm.plan import MergePlan

Linking = Literal["directed", "components", "published"]
Parent = Literal["most_similar", "top_left"]
Share = Literal["video", "joint"]

DEFAULT_SPATIAL = 0.80
DEFAULT_TEMPORAL = 0.60


@dataclass(frozen=True)
class _Merge:
    """What one video becomes.

    Args:
        thresholds: spatial and temporal.
        cut: the cells.
        root: ``(M,)`` int64, the representative of every cell.
        num_links: links between frames that were used.
    """

    thresholds: tuple[float | None, float | None]
    cut: Cut
    root: torch.Tensor
    num_links: int


@register
@dataclass(frozen=True)
class STTM(Method):
    """Merge redundant video tokens: a quadtree cut per frame, then links between frames.

    Without ``keep`` the number of tokens follows the content. With ``keep`` it is exact, for every
    count from 1 to N: the thresholds come down along the published diagonal (temporal = spatial -
    0.2) until they can reach the budget, and of the links that they allow the most similar are
    used. Where one token per root cell is still too many, the pyramid goes on to 1x1.

    Args:
        keep: exact budget: a ratio in (0, 1] as a float, or a count as an integer. Only thresholds
            of None may stand beside it.
        max_tokens: the same as a cap on what the thresholds leave; below it they decide.
        share: what ``keep`` or ``max_tokens`` counts: ``"video"``: the tokens of each video;
            ``"joint"``: those of all videos of one call of the model together, so that busy videos
            get more.
        spatial_threshold: least cosine in [-1, 1] at which a cell replaces its children; higher
            keeps more tokens. None: no spatial step. ``"auto"``: 0.80, or found with ``keep``.
        temporal_threshold: least cosine in [-1, 1] at which cells of neighbouring frames merge.
            None: no temporal step. ``"auto"``: 0.60, or found with ``keep``.
        root_level: largest cells, counted from the coarsest level (0; 2x2 for 14x14); a frame with
            fewer levels keeps its finest grid, and -1 always does: no spatial step.
        linking: ``"directed"``: every cell merges into at most one cell of the previous frame.
            ``"components"``: all links count. ``"published"``: what the published code computes.
        parent: with ``"directed"``: the most similar overlapping cell, or the top-left one.
        weighted: mean over patches instead of over cells.
        per_head: number of equal parts of the channels; similarity is the mean of their cosines.
            None: one cosine over all channels.

    Raises:
        ConfigError: a value out of range, or ``keep`` together with a threshold.

    Source: STTM, arXiv 2507.07990, sections 3.1-3.2. Differs: grids of any shape; local groups
        unless ``linking="published"``.
    """

    name: ClassVar[str] = "sttm"

    keep: float | int | None = None
    max_tokens: float | int | None = None
    share: Share = "video"
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
        check_count("root_level", self.root_level, -1)
        _check_choice("linking", self.linking, get_args(Linking))
        _check_choice("parent", self.parent, get_args(Parent))
        if self.per_head is not None:
            check_count("per_head", self.per_head, 1)
        if not isinstance(self.weighted, bool):
            raise ConfigError(f"weighted: got {self.weighted!r}, expected True or False.")
        if self.parent != "most_similar" and self.linking != "directed":
            raise ConfigError(
                f"parent: got {self.parent!r} with linking={self.linking!r}, expected it only with "
                "linking='directed': the other linkings do not choose parents."
            )
        _check_choice("share", self.share, get_args(Share))
        self._check_budget()

    def _check_budget(self) -> None:
        if self.max_tokens is not None:
            check_keep(self.max_tokens, "max_tokens")
        if self.keep is not None:
            check_keep(self.keep)
        elif self.max_tokens is None:
            return
        if self.keep is not None and self.max_tokens is not None:
            raise ConfigError(
                f"max_tokens: got {self.max_tokens!r} together with keep={self.keep!r}, expected "
                "one of them: keep is exact already, max_tokens caps what thresholds leave."
            )
        if self.linking == "published":
            raise ConfigError(
                "linking: got 'published' with a budget, expected 'directed' or 'components': the "
                "published groups have no order in which they could be cut at a count."
            )
        for name in ("spatial_threshold", "temporal_threshold"):
            value = getattr(self, name)
            if self.keep is not None and value not in ("auto", None):
                raise ConfigError(
                    f"{name}: got {value!r} together with keep={self.keep!r}, expected one or the "
                    "other: a budget finds its own thresholds. None may switch a step off, and "
                    "max_tokens= caps what thresholds leave."
                )

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan the merge of one video. Similarity in float32.

        Returns:
            a plan with ``num_out`` in [1, N]. Its ``info``: ``spatial_threshold``,
            ``temporal_threshold`` (those that were used: with a budget the score of the least
            uniform merged cell and the cosine of the least similar link; None: nothing merged in
            this step), ``tokens_after_spatial``, ``links``, ``levels`` (sizes, finest first),
            ``boxes`` ``(M, 5)`` int64 (t, y0, x0, y1, x1 of each representative cell), ``cells``
            ``(M,)`` int64 (cells merged into each token).

        Raises:
            ConfigError: ``per_head`` does not divide the channels.
            BudgetError: ``keep`` is out of reach with a step switched off.
        """
        return self.plan_batch([video])[0]

    @torch.no_grad()
    def plan_batch(self, videos: Sequence[VideoFeatures]) -> list[MergePlan]:
        """Plan several videos, which share one budget if ``share="joint"``; see `plan`."""
        if self.share == "video" and len(videos) > 1:
            return [self.plan(video) for video in videos]
        for video in videos:
            if video.x.shape[1] % (self.per_head or 1):
                raise ConfigError(
                    f"per_head: got {self.per_head} heads for {video.x.shape[1]} channels, "
                    "expected a divisor."
                )
        trees = [self._grow(v.x, v.grid, self._sizes(v.grid)) for v in videos]
        if self.keep is not None:
            return self._merge_within(videos, trees)
        merges = [self._merge(tree, self._thresholds) for tree in trees]
        if self.max_tokens is not None:
            tokens = sum(_num_tokens(merge.root) for merge in merges)
            if tokens > self._budget(self.max_tokens, videos):
                return self._merge_within(videos, trees)
        return [self._to_plan(tree, merge) for tree, merge in zip(trees, merges, strict=True)]

    def _budget(self, keep: float | int, videos: Sequence[VideoFeatures]) -> int:
        budget = token_budget(keep, sum(video.grid.num_tokens for video in videos))
        if budget < len(videos):
            raise BudgetError(
                f"share='joint': got a budget of {budget} tokens for {len(videos)} videos, "
                "expected at least one token for each. Allow more."
            )
        return budget

    @property
    def _thresholds(self) -> tuple[float | None, float | None]:
        return (
            DEFAULT_SPATIAL if self.spatial_threshold == "auto" else self.spatial_threshold,
            DEFAULT_TEMPORAL if self.temporal_threshold == "auto" else self.temporal_threshold,
        )

    def _sizes(self, grid: VideoGrid) -> list[tuple[int, int]]:
        spatial = self.spatial_threshold is not None
        return used_sizes(grid.height, grid.width, self.root_level if spatial else -1)

    def _grow(self, x: torch.Tensor, grid: VideoGrid, sizes: list[tuple[int, int]]) -> Quadtree:
        pooling = Pooling(self.weighted, self.per_head or 1, self.linking == "published")
        return grow(x, grid.frames, sizes, pooling)

    def _merge_within(
        self, videos: Sequence[VideoFeatures], trees: list[Quadtree]
    ) -> list[MergePlan]:
        """Meet the budget exactly; go on to 1x1 cells only if it is needed."""
        keep = self.max_tokens if self.keep is None else self.keep
        assert keep is not None
        budget = self._budget(keep, videos)
        point = self._reach(trees, budget)
        if point is None and self.spatial_threshold is not None and self.root_level >= 0:
            trees = [
                self._grow(v.x, v.grid, level_sizes(v.grid.height, v.grid.width, to_single=True))
                for v in videos
            ]
            point = self._reach(trees, budget)
        if point is not None:
            return [
                self._to_plan(tree, self._used(tree, point, number))
                for number, tree in enumerate(trees)
            ]
        name = "max_tokens" if self.keep is None else "keep"
        raise BudgetError(
            f"{name}: got {keep!r}, {budget} tokens for {', '.join(str(v.grid) for v in videos)}, "
            f"expected more: {self} cannot reach so few. Allow more tokens, or both merging steps."
        )

    def _reach(self, trees: list[Quadtree], budget: int) -> Point | None:
        spatial, temporal = self._thresholds
        gap = None if temporal is None else (spatial or 0.0) - temporal
        path = BudgetPath(trees, self._forest, gap, parents=self.linking == "directed")
        first = 0 if self.keep is not None or spatial is None else path.rank_of(spatial)
        return path.reach(budget, first)

    def _used(self, tree: Quadtree, point: Point, number: int) -> _Merge:
        cells, links = point.cuts[number], point.links[number]
        root = self._roots(links, cells.num_cells, tree.frames)
        return _Merge((point.spatial, point.temporal), cells, root, len(links))

    def _merge(self, tree: Quadtree, thresholds: tuple[float | None, float | None]) -> _Merge:
        spatial, temporal = thresholds
        cells = cut(tree, spatial)
        links = Links.none(cells.anchor.device)
        if temporal is not None and tree.frames > 1:
            links = find_links(tree, cells).at_least(temporal)
        if self.linking == "published":
            root = published_groups(links.earlier, links.later, cells.num_cells)
        else:
            used = links if self.linking == "components" else self._forest(links, cells.num_cells)
            root = self._roots(used, cells.num_cells, tree.frames)
        return _Merge(thresholds, cells, root, len(links))

    def _forest(self, links: Links, num_cells: int) -> Links:
        """Choose the links of which every one removes a token."""
        if self.linking == "directed":
            return parent_links(links, num_cells, first=self.parent == "top_left")
        return spanning_forest(links, num_cells)

    def _roots(self, links: Links, num_cells: int, frames: int) -> torch.Tensor:
        if self.linking == "components":
            return connected_components(links.earlier, links.later, num_cells)
        parent = torch.arange(num_cells, device=links.earlier.device)
        parent[links.later] = links.earlier
        return forest_roots(parent, depth=frames - 1)

    def _to_plan(self, tree: Quadtree, merge: _Merge) -> MergePlan:
        cells = merge.cut
        is_root = _is_root(merge.root)
        output = (is_root.cumsum(0) - 1)[merge.root]
        num_cells = torch.bincount(output)
        anchor = cells.anchor[is_root]
        group = output[cells.cell]
        if self.weighted:
            weight = 1.0 / torch.bincount(group)[group].float()
        else:
            patch = torch.arange(tree.patches_per_frame, device=group.device).repeat(tree.frames)
            weight = tree.tables.share[cells.level, patch] / num_cells[group]
        info: dict[str, Any] = {
            "spatial_threshold": merge.thresholds[0],
            "temporal_threshold": merge.thresholds[1],
            "tokens_after_spatial": cells.num_cells,
            "links": merge.num_links,
            "levels": tuple(tree.sizes),
            "boxes": boxes(tree, anchor, cells.level[anchor]),
            "cells": num_cells,
        }
        accumulate: Literal["float32", "input"] = (
            "input" if self.linking == "published" else "float32"
        )
        return MergePlan(group, weight, anchor, info, accumulate)


def _is_root(root: torch.Tensor) -> torch.Tensor:
    return root == torch.arange(root.shape[0], device=root.device)


def _num_tokens(root: torch.Tensor) -> int:
    return int(_is_root(root).sum())


def _check_threshold(name: str, value: object) -> None:
    if value is None or value == "auto":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -1.0 <= float(str(value)) <= 1.0:
        raise ConfigError(
            f"{name}: got {value!r}, expected a cosine in [-1, 1], 'auto', or None to switch the "
            "step off."
        )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")
