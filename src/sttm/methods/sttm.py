"""STTM: merge similar neighbours inside every frame, then from frame to frame."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar, Literal, get_args

import torch

from sttm.budget import check_keep, token_budget
from sttm.deprecated import warn_renamed
from sttm.errors import BudgetError, ConfigError
from sttm.grid import VideoGrid
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.checks import check_count
from sttm.methods.registry import register
from sttm.ops.budget_search import cut_to
from sttm.ops.merge import Linking, Merge, merge_at, to_plan
from sttm.ops.merge_order import cosine_order
from sttm.ops.pyramid import level_sizes, used_sizes
from sttm.ops.quadtree import Pooling, Quadtree, grow
from sttm.plan import MergePlan

Parent = Literal["most_similar", "top_left"]
BudgetScope = Literal["video", "joint"]

DEFAULT_SPATIAL = 0.80
DEFAULT_TEMPORAL = 0.60


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
        budget_scope: what ``keep`` or ``max_tokens`` counts: ``"video"``: the tokens of each video;
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
        share: the old name of ``budget_scope``, until 0.3.

    Raises:
        ConfigError: a value out of range, or ``keep`` together with a threshold.

    Source: STTM, arXiv 2507.07990, sections 3.1-3.2. Differs: grids of any shape; local groups
        unless ``linking="published"``.
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
    share: InitVar[BudgetScope | None] = None

    def __post_init__(self, share: BudgetScope | None) -> None:
        if share is not None:
            warn_renamed("STTM(share=...)", "STTM(budget_scope=...)")
            object.__setattr__(self, "budget_scope", share)
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
        _check_choice("budget_scope", self.budget_scope, get_args(BudgetScope))
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
        if self.linking != "directed":
            raise ConfigError(
                f"linking: got {self.linking!r} with a budget, expected 'directed': other linkings "
                "cannot be cut at a count. Use thresholds."
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
        """Plan several videos, which share one budget if ``budget_scope="joint"``; see `plan`."""
        if self.budget_scope == "video" and len(videos) > 1:
            return [self.plan(video) for video in videos]
        trees = [self._grow(video, self._sizes(video.grid)) for video in videos]
        limit = self.max_tokens if self.keep is None else self.keep
        merges = [] if self.keep is not None else [self._merge(tree) for tree in trees]
        if limit is not None:
            budget = self._budget(limit, videos)
            if not merges or sum(merge.num_tokens for merge in merges) > budget:
                trees, merges = self._merge_within(videos, trees, budget)
        accumulate: Literal["float32", "input"] = (
            "input" if self.linking == "published" else "float32"
        )
        return [
            to_plan(tree, merge, weighted=self.weighted, accumulate=accumulate)
            for tree, merge in zip(trees, merges, strict=True)
        ]

    @property
    def _thresholds(self) -> tuple[float | None, float | None]:
        return (
            DEFAULT_SPATIAL if self.spatial_threshold == "auto" else self.spatial_threshold,
            DEFAULT_TEMPORAL if self.temporal_threshold == "auto" else self.temporal_threshold,
        )

    def _sizes(self, grid: VideoGrid) -> list[tuple[int, int]]:
        spatial = self.spatial_threshold is not None
        return used_sizes(grid.height, grid.width, self.root_level if spatial else -1)

    def _grow(self, video: VideoFeatures, sizes: list[tuple[int, int]]) -> Quadtree:
        if video.x.shape[1] % (self.per_head or 1):
            raise ConfigError(
                f"per_head: got {self.per_head} heads for {video.x.shape[1]} channels, expected a "
                "divisor."
            )
        pooling = Pooling(self.weighted, self.per_head or 1, self.linking == "published")
        return grow(video.x, video.grid.frames, sizes, pooling)

    def _merge(self, tree: Quadtree) -> Merge:
        """Merge one video at the thresholds."""
        spatial, temporal = self._thresholds
        first = self.parent == "top_left"
        return merge_at(tree, spatial, temporal, self.linking, first_parent=first)

    def _budget(self, keep: float | int, videos: Sequence[VideoFeatures]) -> int:
        budget = token_budget(keep, sum(video.grid.num_tokens for video in videos))
        if budget < len(videos):
            raise BudgetError(
                f"budget_scope='joint': got a budget of {budget} tokens for {len(videos)} videos, "
                "expected at least one token for each. Allow more."
            )
        return budget

    def _merge_within(
        self, videos: Sequence[VideoFeatures], trees: list[Quadtree], budget: int
    ) -> tuple[list[Quadtree], list[Merge]]:
        """Meet the budget exactly; go on to 1x1 cells only if it is needed."""
        merges = self._cut_to(trees, budget)
        if merges is None and self.spatial_threshold is not None and self.root_level >= 0:
            grids = [video.grid for video in videos]
            sizes = [level_sizes(grid.height, grid.width, to_single=True) for grid in grids]
            trees = [self._grow(video, own) for video, own in zip(videos, sizes, strict=True)]
            merges = self._cut_to(trees, budget)
        if merges is not None:
            return trees, merges
        name = "max_tokens" if self.keep is None else "keep"
        raise BudgetError(
            f"{name}: got {getattr(self, name)!r}, {budget} tokens for "
            f"{', '.join(str(video.grid) for video in videos)}, expected more: {self} cannot reach "
            "so few. Allow more tokens, or both merging steps."
        )

    def _cut_to(self, trees: list[Quadtree], budget: int) -> list[Merge] | None:
        """Merge to the budget in the order of the thresholds' diagonal; None if out of reach."""
        spatial, temporal = self._thresholds
        order = cosine_order(trees, None if temporal is None else (spatial or 0.0) - temporal)
        first = 0 if self.keep is not None or spatial is None else order.rank_of(spatial)
        top_left = self.parent == "top_left"
        return cut_to(trees, order, budget, first_rank=first, first_parent=top_left)


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
