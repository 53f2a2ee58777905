"""Small videos and the comparison of the fast merge with its naive twin."""

import math
from itertools import pairwise

import torch
from hypothesis import strategies as st

from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.ops import naive

KINDS = ("noise", "smooth", "signs", "static", "zeros")
# Closer to a threshold or to a competitor than this, float32 and float64 may decide differently.
MARGIN = 1e-5


def make_video(kind: str, grid: VideoGrid, channels: int, seed: int) -> torch.Tensor:
    """Return ``(N, C)`` float32 features: every kind leads to other merges and ties."""
    generator = torch.Generator().manual_seed(seed)
    shape = (grid.frames, grid.height, grid.width, channels)
    noise = torch.randn(shape, generator=generator)
    if kind == "noise":
        video = noise
    elif kind == "smooth":
        slow = torch.randn(1, 1, 1, channels, generator=generator)
        video = slow + 0.6 * torch.randn(shape[0], 1, 1, channels, generator=generator)
        video = video + 0.4 * noise
    elif kind == "signs":
        video = torch.randint(0, 2, shape, generator=generator).float() * 2 - 1
        repeated = torch.rand(shape[:3], generator=generator) < 0.6
        video[repeated] = 1.0
    elif kind == "static":
        video = noise[:1].expand(shape).clone()
    else:
        video = noise * (torch.rand(shape[:3], generator=generator) < 0.5)[..., None]
    return video.reshape(grid.num_tokens, channels)


@st.composite
def videos(draw: st.DrawFn, multiple: int = 1) -> tuple[torch.Tensor, VideoGrid]:
    """Draw a small video of any shape from 1x1x1 up, its channels a multiple of ``multiple``."""
    grid = VideoGrid(draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    channels = draw(st.integers(1, max(1, 6 // multiple))) * multiple
    kind = draw(st.sampled_from(KINDS))
    return make_video(kind, grid, channels, draw(st.integers(0, 10_000))), grid


def settings_of(method: STTM) -> naive.Settings:
    """Return the naive twin's settings for a method with explicit thresholds."""
    assert method.spatial_threshold != "auto"
    assert method.temporal_threshold != "auto"
    return naive.Settings(
        method.spatial_threshold,
        method.temporal_threshold,
        method.root_level,
        method.linking,
        method.parent,
        method.weighted,
        method.per_head or 1,
    )


def is_close_call(merged: naive.Merged, settings: naive.Settings) -> bool:
    """Tell whether rounding could decide anything: a value at a threshold, or an inexact tie."""
    cosines = [value for _, _, value in merged.links]
    checks = [(settings.spatial_threshold, merged.scores), (settings.temporal_threshold, cosines)]
    for threshold, values in checks:
        if threshold is not None and any(abs(v - threshold) < MARGIN for v in values):
            return True
    by_child: dict[int, list[tuple[float, float, float]]] = {}
    for a, b, value in merged.links:
        x, y = merged.cells[a].feature, merged.cells[b].feature
        by_child.setdefault(b, []).append((value, float(x @ y), float(x @ x)))
    for candidates in by_child.values():
        ordered = sorted(candidates)
        for low, high in pairwise(ordered):
            # Equal products make an exact tie, which both must break the same way.
            if high[0] - low[0] < MARGIN and low[1:] != high[1:]:
                return True
    return False


def assert_same(x: torch.Tensor, grid: VideoGrid, method: STTM, merged: naive.Merged) -> None:
    """Compare cells, groups, boxes and features of the fast merge with those of the twin."""
    plan = method.plan(VideoFeatures(x, grid)).check()
    representatives = sorted(set(merged.root))
    threshold = method.temporal_threshold
    counted = [v for _, _, v in merged.links if isinstance(threshold, float) and v >= threshold]
    assert plan.info["links"] == len(counted)
    assert plan.info["tokens_after_spatial"] == len(merged.cells)
    assert plan.num_out == len(representatives)
    boxes = [merged.cells[i].box for i in representatives]
    assert [tuple(row) for row in plan.info["boxes"].tolist()] == boxes
    assert plan.group.tolist() == merged.group
    width = grid.width
    anchors = [t * grid.tokens_per_frame + y0 * width + x0 for t, y0, x0, _, _ in boxes]
    assert plan.anchor.tolist() == anchors
    tolerance = max(1e-5, 4 * torch.finfo(x.dtype).eps)
    difference = (plan.apply(x).double() - merged.features).abs().max()
    assert float(difference) <= tolerance * max(1.0, float(merged.features.abs().max()))
    assert math.isclose(plan.retention, len(representatives) / grid.num_tokens)
