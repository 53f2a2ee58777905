"""STTM: merge similar neighbours inside every frame, then from frame to frame."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, fields, replace
from typing import ClassVar, Literal, get_args

import torch

from sttm.budget import check_keep, joint_budget, token_budget
from sttm.deprecated import warn_renamed
from sttm.errors import BudgetError, ConfigError
from sttm.grid import VideoGrid
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.checks import check_choice, check_count, check_number, check_threshold
from sttm.methods.registry import register
from sttm.ops.budget_search import cut_to
from sttm.ops.links import Parent
from sttm.ops.merge import Linking, Merge, MergeNumbers, merge_at, read_numbers, to_plan
from sttm.ops.merge_order import cosine_order
from sttm.ops.pyramid import level_sizes, used_sizes
from sttm.ops.quadtree import Pooling, Quadtree, grow
from sttm.ops.same_places import merge_places
from sttm.ops.similarity import needs_rescaling, rescaled
from sttm.ops.ward import cheapest_merges, merge_trees, merges_within
from sttm.plan import MergePlan

_Video = tuple[torch.Tensor, VideoGrid]
BudgetScope = Literal["video", "joint"]
Criterion = Literal["cosine", "distortion"]

DEFAULT_SPATIAL = 0.80
DEFAULT_TEMPORAL = 0.60
_SLACK = 4  # what pieces leave, over the budget

# Fields that only mean something where cells and links are compared by their cosine.
_OF_COSINE = (
    "spatial_threshold",
    "temporal_threshold",
    "root_level",
    "linking",
    "parent",
    "weighted",
    "per_head",
)


@register
@dataclass(frozen=True)
class STTM(Method):
    """Merge redundant video tokens: a quadtree cut per frame, then links between frames.

    Without ``keep`` the number of tokens follows the content. With ``keep`` it is exact, for every
    count from 1 to N: the thresholds come down along the published diagonal (temporal = spatial -
    0.2) until they can reach the budget, and of the links that they allow the most similar are
    used. Where one token per root cell is still too many, the pyramid goes on to 1x1.

    ``criterion="distortion"`` merges what costs least squared error instead: tokens that touch in
    space or time grow into groups of any shape. Then ``keep`` or ``max_distortion`` says how far.

    Args:
        keep: exact budget: a ratio in (0, 1] as a float, or a count as an integer. A threshold
            may then only be None, which switches its step off.
        max_tokens: a cap, written like ``keep``. The thresholds decide unless they leave more.
        budget_scope: what ``keep`` or ``max_tokens`` counts: ``"video"``: the tokens of each video;
            ``"joint"``: those of all videos of one call of the model together, so that busy videos
            get more.
        spatial_threshold: least cosine in [-1, 1] at which a cell replaces its children; higher
            keeps more tokens. None: no spatial step. ``"auto"``: 0.80, or found with ``keep``.
        temporal_threshold: least cosine in [-1, 1] at which cells of neighbouring frames merge.
            None: no temporal step. ``"auto"``: 0.60, or found with ``keep``.
        root_level: level of the largest cells, from the coarsest one (0; 2x2 for 14x14) towards
            finer ones. Beyond the finest level, and for -1, there is no spatial step.
        linking: ``"directed"``: every cell merges into at most one cell of the previous frame.
            ``"components"``: all links count. ``"published"``: what the published code computes.
            Only ``"directed"`` goes with a budget.
        parent: with ``"directed"``: the most similar overlapping cell, or the top-left one.
        weighted: mean over patches instead of over cells.
        per_head: number of equal parts of the channels; similarity is the mean of their cosines.
            None: one cosine over all channels.
        criterion: what merges first: ``"cosine"``: the most similar, by the rules of the paper;
            ``"distortion"``: what adds least squared error. The fields from ``spatial_threshold``
            to ``per_head`` belong to the cosine alone.
        max_distortion: with ``"distortion"``, instead of ``keep``: the most that merging may lose,
            as a share in [0, 1] of the energy: ``sum(|x - mean of its group|**2) / sum(|x|**2)``.
        piece: with ``keep``, for long videos: frames that are merged by themselves first, to four
            times their part of the budget; then all of these tokens are merged to the budget, those
            of one cell with the next of that cell in time, the most similar first. Another result
            than that of one step, for which the whole video need not be at hand.
        share: the old name of ``budget_scope``, until 0.3.

    Raises:
        ConfigError: a value out of range, or options that do not go together.

    Source: STTM, arXiv 2507.07990, sections 3.1-3.2. Differs: grids of any shape; local groups
        unless ``linking="published"``; budgets and ``criterion="distortion"`` are our own.
    """

    name: ClassVar[str] = "sttm"

    keep: float | int | None = None
    max_tokens: float | int | None = None
    budget_scope: BudgetScope = "video"
    spatial_threshold: float | Literal["auto"] | None = "auto"
    temporal_threshold: float | Literal["auto"] | None = "auto"
    root_level: int = 1
    linking: Linking = "directed"
    parent: Parent = "most_similar"
    weighted: bool = False
    per_head: int | None = None
    criterion: Criterion = "cosine"
    max_distortion: float | None = None
    piece: int | None = None
    share: InitVar[BudgetScope | None] = None

    def __post_init__(self, share: BudgetScope | None) -> None:
        if share is not None:
            warn_renamed("STTM(share=...)", "STTM(budget_scope=...)", stacklevel=4)
            object.__setattr__(self, "budget_scope", share)
        check_threshold("spatial_threshold", self.spatial_threshold)
        check_threshold("temporal_threshold", self.temporal_threshold)
        check_count("root_level", self.root_level, -1)
        check_choice("linking", self.linking, get_args(Linking))
        check_choice("parent", self.parent, get_args(Parent))
        if self.per_head is not None:
            check_count("per_head", self.per_head, 1)
        if not isinstance(self.weighted, bool):
            raise ConfigError(f"weighted: got {self.weighted!r}, expected True or False.")
        if self.parent != "most_similar" and self.linking != "directed":
            raise ConfigError(
                f"parent: got {self.parent!r} with linking={self.linking!r}, expected it only with "
                "linking='directed': the other linkings do not choose parents."
            )
        check_choice("budget_scope", self.budget_scope, get_args(BudgetScope))
        check_choice("criterion", self.criterion, get_args(Criterion))
        self._check_criterion()
        self._check_budget()
        self._check_piece()

    def _check_criterion(self) -> None:
        if self.max_distortion is not None:
            check_number("max_distortion", self.max_distortion, 0.0, 1.0)
        if self.criterion == "cosine":
            if self.max_distortion is not None:
                raise ConfigError(
                    f"max_distortion: got {self.max_distortion!r} with criterion='cosine', "
                    "expected it only with criterion='distortion'."
                )
            return
        defaults = {field.name: field.default for field in fields(self)}
        for name in _OF_COSINE:
            if getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)!r} with criterion='distortion', expected it "
                    "only with criterion='cosine': there are no cells and no links that it could "
                    "be about. Leave it out."
                )
        if (self.keep is None) == (self.max_distortion is None):
            raise ConfigError(
                f"criterion: got 'distortion' with keep={self.keep!r} and "
                f"max_distortion={self.max_distortion!r}, expected one of them: keep is an exact "
                "count, max_distortion what merging may lose; max_tokens= caps the latter."
            )

    def _check_budget(self) -> None:
        for name in ("keep", "max_tokens"):
            if getattr(self, name) is not None:
                check_keep(getattr(self, name), name)
        if self._budget is not None and self.linking != "directed":
            raise ConfigError(
                f"linking: got {self.linking!r} with a budget, expected 'directed': only there "
                "does every link remove exactly one token. Leave linking out, or use thresholds "
                "instead of a budget."
            )
        if self.keep is None:
            return
        if self.max_tokens is not None:
            raise ConfigError(
                f"max_tokens: got {self.max_tokens!r} together with keep={self.keep!r}, expected "
                "one of them: keep is exact already, max_tokens caps what thresholds leave."
            )
        for name in ("spatial_threshold", "temporal_threshold"):
            if getattr(self, name) not in ("auto", None):
                raise ConfigError(
                    f"{name}: got {getattr(self, name)!r} together with keep={self.keep!r}, "
                    "expected one of them: a budget finds its own thresholds. None switches a step "
                    "off, and max_tokens= caps what thresholds leave."
                )

    def _check_piece(self) -> None:
        if self.piece is None:
            return
        check_count("piece", self.piece, 1)
        if self.keep is None or (self.criterion, self.budget_scope) != ("cosine", "video"):
            raise ConfigError(
                f"piece: got {self.piece} in {self}, expected it only with keep=, "
                "criterion='cosine' and budget_scope='video'. Leave it out: thresholds give the "
                "same tokens in pieces."
            )

    @property
    def _budget(self) -> float | int | None:
        return self.max_tokens if self.keep is None else self.keep

    @property
    def thresholds(self) -> tuple[float | None, float | None]:
        """The spatial and the temporal threshold, with the defaults in the place of ``"auto"``."""
        return (
            DEFAULT_SPATIAL if self.spatial_threshold == "auto" else self.spatial_threshold,
            DEFAULT_TEMPORAL if self.temporal_threshold == "auto" else self.temporal_threshold,
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
            ``(M,)`` int64 (cells merged into each token). With ``criterion="distortion"`` it holds
            ``distortion`` alone, the share of the energy that is lost: exact with
            ``max_distortion``, with ``keep`` estimated for features of more than 128 channels.
            With ``piece`` it holds ``boxes``, ``cells`` and ``tokens_after_pieces``.

        Raises:
            ConfigError: ``per_head`` does not divide the channels.
            BudgetError: ``keep`` is out of reach with a step switched off.
        """
        return self.plan_batch([video])[0]

    @torch.no_grad()
    def plan_batch(self, videos: Sequence[VideoFeatures]) -> list[MergePlan]:
        """Plan several videos, which share one budget if ``budget_scope="joint"``; see `plan`."""
        if self.budget_scope == "video" and len(videos) > 1:
            return [self.plan(video) for video in videos]
        if self.piece is not None:
            return [self._plan_in_pieces(video.x, video.grid) for video in videos]
        if self.criterion == "distortion":
            return self._plan_by_distortion(videos)
        merged = self._merge([(video.x, video.grid) for video in videos])
        return [to_plan(*each) for each in merged]

    def plan_piece(self, x: torch.Tensor, grid: VideoGrid, first: int = 0) -> MergePlan:
        """Plan one piece of a video by itself, with ``keep`` and ``piece``.

        Args:
            x: ``(n, C)`` features of its frames.
            grid: of the whole video.
            first: number of the piece's first token in the video.

        Returns:
            the plan of the piece. Its ``info`` holds ``boxes`` in the whole video, and ``share``,
            ``(M,)`` int64: what each token weighs in a further merge.
        """
        assert self.keep is not None
        part = _SLACK * token_budget(self.keep, grid.num_tokens) * len(x)
        count = min(len(x), -(-part // grid.num_tokens))
        frames = replace(grid, frames=len(x) // grid.tokens_per_frame)
        plan = replace(self, keep=count, piece=None).plan(VideoFeatures(x, frames))
        box = plan.info["boxes"].clone()
        box[:, 0] += first // grid.tokens_per_frame
        share = plan.sizes if self.weighted else plan.info["cells"]
        return replace(plan, info={"boxes": box, "share": share})

    def _plan_in_pieces(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Merge every piece to its part of four budgets, and what is left to the budget."""
        assert self.keep is not None
        assert self.piece is not None
        tokens = groups = 0
        columns = []
        for part in torch.split(x, self.piece * grid.tokens_per_frame):
            plan = self.plan_piece(part, grid, tokens)
            rows = (plan.group + groups, plan.weight, plan.anchor + tokens)
            columns.append((*rows, plan.info["boxes"], plan.info["share"], plan.apply(part)))
            tokens, groups = tokens + len(part), groups + plan.num_out
        group, weight, anchor, box, share, merged = map(torch.cat, zip(*columns, strict=True))
        keep = token_budget(self.keep, grid.num_tokens)
        again = merge_places(merged, box, share.float(), keep)
        cells = share.new_zeros(again.num_out).index_add_(0, again.group, share)
        info = {"tokens_after_pieces": len(merged), "boxes": again.gather(box), "cells": cells}
        return replace(MergePlan(group, weight, anchor).compose(again), info=info)

    def _plan_by_distortion(self, videos: Sequence[VideoFeatures]) -> list[MergePlan]:
        """Make the cheapest merges: as many as the budget asks for, or as the limit allows."""
        tokens = [video.grid.num_tokens for video in videos]
        trees = merge_trees([(v.x, v.grid) for v in videos], exact=self.max_distortion is not None)
        least = 0 if self._budget is None else sum(tokens) - joint_budget(self._budget, tokens)
        if self.max_distortion is not None:
            least = max(least, merges_within(trees, self.max_distortion))
        return [
            replace(
                MergePlan.from_anchors(tree.labels(made)),
                info={"distortion": tree.distortion(made)},
            )
            for tree, made in zip(trees, cheapest_merges(trees, least), strict=True)
        ]

    def _merge(self, videos: Sequence[_Video]) -> list[tuple[Quadtree, Merge, MergeNumbers]]:
        """Merge at the thresholds or to the budget; read the numbers back once for each attempt."""
        tokens = [grid.num_tokens for _, grid in videos]
        budget = sum(tokens) if self._budget is None else joint_budget(self._budget, tokens)
        trees = self._grow(videos)
        if self.keep is None:
            options = (*self.thresholds, self.linking, self.parent)
            merges = [merge_at(tree, *options) for tree in trees]
        else:
            merges = self._merge_to(budget, trees)
        numbers = read_numbers(trees, merges)
        extreme = [needs_rescaling(number.largest_square) for number in numbers]
        if any(extreme):
            return self._merge(
                [
                    (rescaled(x) if far else x, grid)
                    for far, (x, grid) in zip(extreme, videos, strict=True)
                ]
            )
        if self.keep is None and sum(number.tokens for number in numbers) > budget:
            merges = self._merge_to(budget, trees)
            numbers = read_numbers(trees, merges)
        if not numbers[0].reached:
            trees = self._grow(videos, to_single=True)
            merges = self._merge_to(budget, trees)
            numbers = read_numbers(trees, merges)
        if not numbers[0].reached:
            raise BudgetError(
                f"{'max_tokens' if self.keep is None else 'keep'}: got {self._budget!r}, {budget} "
                f"tokens for {', '.join(str(grid) for _, grid in videos)}, expected more: {self} "
                "cannot reach so few. Allow more tokens, or both merging steps."
            )
        return list(zip(trees, merges, numbers, strict=True))

    def _merge_to(self, budget: int, trees: list[Quadtree]) -> list[Merge]:
        """Merge to the budget, as far as these pyramids allow."""
        spatial, temporal = self.thresholds
        gap = None if temporal is None else (spatial or 0.0) - temporal
        start = spatial if self.keep is None else None
        return cut_to(trees, cosine_order(trees, gap), budget, start, self.parent)

    def _grow(self, videos: Sequence[_Video], *, to_single: bool = False) -> list[Quadtree]:
        """Grow every video's pyramid to the root level, or on to 1x1."""
        pooling = Pooling(self.weighted, self.per_head or 1, self.linking == "published")
        root_level = -1 if self.spatial_threshold is None else self.root_level
        trees = []
        for x, grid in videos:
            if x.shape[1] % pooling.heads:
                raise ConfigError(
                    f"per_head: got {self.per_head} heads for {x.shape[1]} channels, expected a "
                    "divisor."
                )
            sizes = used_sizes(grid.height, grid.width, root_level)
            if to_single and root_level >= 0:
                sizes = level_sizes(grid.height, grid.width, to_single=True)
            trees.append(grow(x, grid.frames, tuple(sizes), pooling))
        return trees
