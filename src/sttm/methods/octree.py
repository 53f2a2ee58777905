"""Octree: merge cubes of time and space whose parts are alike."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from sttm.budget import check_keep, token_budget
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.checks import check_count, check_number
from sttm.methods.registry import register
from sttm.ops.octree import (
    Octree,
    Size,
    grow_octree,
    labels,
    labels_of_count,
    octree_sizes,
    opened_below,
    root_shares,
)
from sttm.plan import MergePlan

_DEFAULT_THRESHOLD = 0.80


@register
@dataclass(frozen=True)
class OctreeMerge(Method):
    """Merge cubes of the pyramid over time, rows and columns, halving all three together.

    Time is cut into cubes of as many frames as a frame has columns; the frames that are left are
    cut by themselves. A cube whose least cosine with its existing children reaches the threshold
    becomes one token; otherwise its children are visited. Means over children, as in STTM's
    quadtree.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer: cubes are opened in the order
            of their scores to exactly so many tokens; of the last cube only the children least
            like it are taken out. Where one token per root is too many, the pyramid goes on to one.
        threshold: least cosine in [-1, 1] at which a cube replaces its children; higher keeps more
            tokens. None: 0.80, or what ``keep`` leads to.
        root_level: largest cubes, counted from the coarsest level (0; 2x2 per frame for 14x14).
        missing: how to score a cube whose odd side leaves children out: ``"corner"``, as if each
            were the first cell of its level, as the published code does; or ``"ignored"``.

    Raises:
        ConfigError: a value out of range, or ``keep`` together with a threshold.

    Source: the Octree comparison of STTM, arXiv 2507.07990. Differs: ``keep``; sides of any length.
        Checked against the code published with STTM, see docs/fairness.md.
    """

    name: ClassVar[str] = "octree"

    keep: float | int | None = None
    threshold: float | None = None
    root_level: int = 1
    missing: Literal["corner", "ignored"] = "corner"

    def __post_init__(self) -> None:
        if self.keep is not None:
            check_keep(self.keep)
        if self.keep is not None and self.threshold is not None:
            raise ConfigError(
                f"threshold: got {self.threshold!r} together with keep={self.keep!r}, expected one "
                "or the other: a budget follows the scores by itself."
            )
        if self.threshold is not None:
            check_number("threshold", self.threshold, -1.0, 1.0)
        check_count("root_level", self.root_level, least=0)
        if self.missing not in ("corner", "ignored"):
            raise ConfigError(f"missing: got {self.missing!r}, expected 'corner' or 'ignored'.")

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan the merge of one video.

        Similarity in float32.

        Returns:
            with ``keep`` a plan of exactly ``floor(keep * N)`` tokens, at least one. Its ``info``
            has ``levels`` (sizes, finest first).
        """
        x, grid, corner = video.x, video.grid, self.missing == "corner"
        if self.keep is None:
            tree = grow_octree(x, self._boxes(grid), corner=corner)
            threshold = _DEFAULT_THRESHOLD if self.threshold is None else self.threshold
            return _to_plan(tree, labels(tree, opened_below(tree, threshold)))
        count = token_budget(self.keep, grid.num_tokens)
        for boxes in (
            self._boxes(grid),
            self._boxes(grid, to_single=True),
            [octree_sizes(grid.frames, grid.height, grid.width, to_single=True)],
        ):
            roots = sum(frames * height * width for frames, height, width in (b[-1] for b in boxes))
            if roots <= count:
                break
        tree = grow_octree(x, boxes, corner=corner)
        return _to_plan(tree, labels_of_count(tree, count))

    def _boxes(self, grid: VideoGrid, *, to_single: bool = False) -> list[list[Size]]:
        """Return the levels of every box: cubes, and each of the frames that are left alone."""
        cubes, left = divmod(grid.frames, grid.width)
        lengths = [grid.width] * cubes + [1] * left
        boxes = [octree_sizes(n, grid.height, grid.width, to_single=to_single) for n in lengths]
        if to_single:
            return boxes
        return [sizes[: max(1, len(sizes) - self.root_level)] for sizes in boxes]


def _to_plan(tree: Octree, label: torch.Tensor) -> MergePlan:
    plan = MergePlan.from_labels(label, root_shares(tree))
    return replace(plan, info={"levels": tuple(tree.sizes)})
