"""The whole fast merge against its literal twin, over shapes, dtypes and settings."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.ops import naive, similarity
from sttm.ops.links import Parent
from sttm.ops.merge import Linking
from tests.ops.merge_cases import assert_same, is_close_call, make_video, settings_of, videos

thresholds = st.one_of(st.none(), st.floats(-1.0, 1.0, width=32))
LINKINGS: tuple[tuple[Linking, Parent], ...] = (
    ("directed", "most_similar"),
    ("directed", "top_left"),
    ("components", "most_similar"),
    ("published", "most_similar"),
)


def compare_if_clear(x: torch.Tensor, grid: VideoGrid, method: STTM) -> bool:
    """Compare unless rounding could decide; tell whether it was compared."""
    twin = settings_of(method)
    merged = naive.merge(x, grid.frames, grid.height, grid.width, twin)
    if is_close_call(merged, twin):
        return False
    before = x.clone()
    assert_same(x, grid, method, merged)
    assert torch.equal(x, before)
    return True


def compare(x: torch.Tensor, grid: VideoGrid, method: STTM) -> None:
    assume(compare_if_clear(x, grid, method))


@pytest.mark.parametrize(("linking", "parent"), LINKINGS)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    video=videos(),
    spatial=thresholds,
    temporal=thresholds,
    root_level=st.integers(-1, 4),
    weighted=st.booleans(),
)
def test_merge_equals_its_twin(
    linking: Linking,
    parent: Parent,
    video: tuple[torch.Tensor, VideoGrid],
    spatial: float | None,
    temporal: float | None,
    root_level: int,
    weighted: bool,
) -> None:
    compare(
        *video,
        STTM(
            spatial_threshold=spatial,
            temporal_threshold=temporal,
            root_level=root_level,
            linking=linking,
            parent=parent,
            weighted=weighted,
        ),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("linking", "parent"), LINKINGS)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.filter_too_much])
@given(video=videos(), spatial=st.floats(0.3, 1.0), temporal=st.floats(0.0, 1.0))
def test_merge_equals_its_twin_in_other_dtypes(
    dtype: torch.dtype,
    linking: Linking,
    parent: Parent,
    video: tuple[torch.Tensor, VideoGrid],
    spatial: float,
    temporal: float,
) -> None:
    x, grid = video
    method = STTM(
        spatial_threshold=spatial, temporal_threshold=temporal, linking=linking, parent=parent
    )
    compare(x.to(dtype), grid, method)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
@given(video=videos(multiple=2), spatial=st.floats(0.0, 1.0), temporal=st.floats(-0.5, 1.0))
def test_merge_equals_its_twin_with_heads(
    video: tuple[torch.Tensor, VideoGrid], spatial: float, temporal: float
) -> None:
    compare(*video, STTM(spatial_threshold=spatial, temporal_threshold=temporal, per_head=2))


@pytest.mark.parametrize("linking", ["directed", "components", "published"])
def test_ties_are_common_and_broken_alike(linking: Linking) -> None:
    compared = 0
    for seed in range(24):
        grid = VideoGrid(3, 4 + seed % 5, 4 + seed % 4)
        x = make_video("signs", grid, 3, seed)
        method = STTM(spatial_threshold=0.77, temporal_threshold=0.21, linking=linking)
        compared += compare_if_clear(x, grid, method)
    assert compared >= 12


def test_a_larger_video_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = VideoGrid(9, 14, 14)
    x = make_video("smooth", grid, 8, 7)
    method = STTM(spatial_threshold=0.9, temporal_threshold=0.85)
    whole = method.plan(VideoFeatures(x, grid))
    monkeypatch.setattr(similarity, "_CPU_PIECE", 3000)
    pieces = method.plan(VideoFeatures(x, grid))
    assert torch.equal(whole.group, pieces.group)
    assert compare_if_clear(x, grid, method)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6, 1e25])
def test_the_scale_of_the_features_does_not_matter(scale: float) -> None:
    grid = VideoGrid(4, 7, 6)
    x = make_video("smooth", grid, 6, 3)
    plan, scaled = (STTM().plan(VideoFeatures(features, grid)) for features in (x, x * scale))
    assert torch.equal(plan.group, scaled.group)
    assert plan.num_out < grid.num_tokens
