"""The method's promises: settings, invariants, locality, budgets, errors."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import BudgetError, ConfigError
from sttm.grid import VideoGrid
from sttm.methods import STTM, Method, VideoFeatures
from sttm.ops.links import Parent
from sttm.ops.merge import Linking

LINKINGS: tuple[Linking, ...] = ("directed", "components", "published")


def slow_pan(grid: VideoGrid, channels: int = 8, seed: int = 0, noise: float = 0.5) -> torch.Tensor:
    """Return features that change slowly in space and time, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, channels, 3, 3, 3, generator=generator)
    size = (grid.frames, grid.height, grid.width)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="trilinear")
    video = smooth[0].permute(1, 2, 3, 0).reshape(grid.num_tokens, channels)
    return video + noise * torch.randn(video.shape, generator=generator)


@st.composite
def any_video(draw: st.DrawFn) -> tuple[torch.Tensor, VideoGrid]:
    grid = VideoGrid(draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    noise = draw(st.sampled_from([0.0, 0.3, 2.0]))
    x = slow_pan(grid, draw(st.integers(1, 4)) * 2, draw(st.integers(0, 999)), noise)
    return x.to(draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))), grid


@st.composite
def any_method(draw: st.DrawFn) -> STTM:
    threshold = st.one_of(st.none(), st.floats(-1, 1))
    linking = draw(st.sampled_from(LINKINGS))
    parents: list[Parent] = ["most_similar", "top_left"]
    return STTM(
        spatial_threshold=draw(threshold),
        temporal_threshold=draw(threshold),
        root_level=draw(st.integers(-1, 5)),
        linking=linking,
        parent=draw(st.sampled_from(parents)) if linking == "directed" else "most_similar",
        weighted=draw(st.booleans()),
        per_head=draw(st.sampled_from([None, 1, 2])),
    )


@settings(deadline=None)
@given(any_video(), any_method())
def test_every_plan_keeps_its_promises(video: tuple[torch.Tensor, VideoGrid], method: STTM) -> None:
    x, grid = video
    plan = method.plan(VideoFeatures(x, grid)).check()
    assert plan.num_in == grid.num_tokens
    assert int(plan.group.min()) == 0
    # The representative is the first of its group, and its box starts at the anchor.
    first = torch.full((plan.num_out,), plan.num_in)
    first.scatter_reduce_(0, plan.group, torch.arange(plan.num_in), "amin")
    assert torch.equal(first, plan.anchor)
    frame, top, left, bottom, right = plan.info["boxes"].unbind(1)
    corner = (frame * grid.height + top) * grid.width + left
    assert torch.equal(corner, plan.anchor)
    assert bool(((bottom > top) & (right > left)).all())
    assert int(plan.info["cells"].sum()) == plan.info["tokens_after_spatial"]
    if method.linking == "directed":
        assert plan.num_out <= plan.info["tokens_after_spatial"]
    merged = plan.apply(x)
    assert merged.dtype == x.dtype
    assert bool(torch.isfinite(merged).all())
    again = method.plan(VideoFeatures(x, grid))
    assert torch.equal(plan.group, again.group)
    assert torch.equal(plan.weight, again.weight)


def test_a_method_satisfies_the_protocol() -> None:
    assert isinstance(STTM(), Method)


def test_without_settings_the_published_thresholds_are_used() -> None:
    grid = VideoGrid(4, 14, 14)
    x = slow_pan(grid)
    plan = STTM().plan(VideoFeatures(x, grid))
    assert (plan.info["spatial_threshold"], plan.info["temporal_threshold"]) == (0.80, 0.60)
    assert plan.info["levels"] == ((14, 14), (7, 7), (4, 4))
    explicit = STTM(spatial_threshold=0.80, temporal_threshold=0.60).plan(VideoFeatures(x, grid))
    assert torch.equal(plan.group, explicit.group)
    assert 1 < plan.num_out < plan.info["tokens_after_spatial"] < grid.num_tokens


def test_spatial_only_never_merges_frames() -> None:
    grid = VideoGrid(5, 9, 7)
    plan = STTM(temporal_threshold=None).plan(VideoFeatures(slow_pan(grid), grid))
    assert plan.info["temporal_threshold"] is None
    assert plan.info["links"] == 0
    assert plan.num_out == plan.info["tokens_after_spatial"] < grid.num_tokens
    frames = torch.arange(grid.num_tokens) // grid.tokens_per_frame
    assert torch.equal(frames, frames[plan.anchor][plan.group])


@pytest.mark.parametrize("method", [STTM(spatial_threshold=None), STTM(root_level=-1)])
def test_temporal_only_never_merges_patches_of_a_frame(method: STTM) -> None:
    grid = VideoGrid(5, 9, 7)
    plan = method.plan(VideoFeatures(slow_pan(grid, noise=0.2), grid))
    assert plan.info["tokens_after_spatial"] == grid.num_tokens > plan.num_out
    patches = torch.arange(grid.num_tokens) % grid.tokens_per_frame
    assert torch.equal(patches, patches[plan.anchor][plan.group])


def test_both_steps_off_keep_every_token() -> None:
    grid = VideoGrid(2, 3, 3)
    plan = STTM(spatial_threshold=None, temporal_threshold=None).plan(
        VideoFeatures(slow_pan(grid), grid)
    )
    assert plan.group.tolist() == list(range(18))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("linking", LINKINGS)
def test_equal_features_merge_at_threshold_one(linking: Linking, dtype: torch.dtype) -> None:
    grid = VideoGrid(6, 12, 8)
    frame = torch.randn(grid.tokens_per_frame, 33, generator=torch.Generator().manual_seed(0))
    x = frame.repeat(grid.frames, 1).to(dtype)
    method = STTM(spatial_threshold=1.0, temporal_threshold=1.0, linking=linking)
    assert method.plan(VideoFeatures(x, grid)).num_out == grid.tokens_per_frame
    flat = frame[:1].repeat(grid.num_tokens, 1).to(dtype)
    assert method.plan(VideoFeatures(flat, grid)).num_out == 6 * 4


def test_a_cell_with_one_child_scores_one_whatever_it_holds() -> None:
    grid = VideoGrid(1, 14, 14)
    x = torch.randn(196, 16, generator=torch.Generator().manual_seed(0))
    # 14x14 -> 7x7 -> 4x4: the first cell of 4x4 has one child, so the corner is always merged.
    plan = STTM(spatial_threshold=1.0).plan(VideoFeatures(x, grid))
    assert plan.num_out == 193
    assert plan.info["boxes"][0].tolist() == [0, 0, 0, 2, 2]


@pytest.mark.parametrize("linking", ["directed", "components"])
def test_groups_do_not_depend_on_a_far_part_of_the_video(linking: Linking) -> None:
    grid, half = VideoGrid(12, 8, 8), VideoGrid(6, 8, 8)
    x = slow_pan(grid)
    # A frame unlike both neighbours keeps links from crossing.
    x[5 * 64 : 6 * 64] = -3 * x[4 * 64 : 5 * 64]
    changed = x.clone()
    changed[6 * 64 :] = slow_pan(half, seed=5, noise=1.0)
    method = STTM(linking=linking)
    whole, other = method.plan(VideoFeatures(x, grid)), method.plan(VideoFeatures(changed, grid))
    assert torch.equal(whole.group[: 6 * 64], other.group[: 6 * 64])
    assert not torch.equal(whole.group, other.group)


def test_directed_groups_of_a_prefix_are_a_prefix_of_the_groups() -> None:
    grid = VideoGrid(9, 9, 6)
    x = slow_pan(grid, noise=0.3)
    whole = STTM().plan(VideoFeatures(x, grid))
    for frames in range(1, 9):
        tokens = frames * grid.tokens_per_frame
        part = STTM().plan(VideoFeatures(x[:tokens], VideoGrid(frames, 9, 6)))
        assert torch.equal(part.group, whole.group[:tokens])


def test_every_directed_merge_removes_one_token() -> None:
    grid = VideoGrid(6, 14, 14)
    x = slow_pan(grid, noise=0.3)
    counts = [
        STTM(spatial_threshold=0.8, temporal_threshold=t).plan(VideoFeatures(x, grid)).num_out
        for t in (1.0, 0.9, 0.7, 0.5, 0.0, -1.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3


def test_weighted_means_are_means_over_patches() -> None:
    grid = VideoGrid(4, 7, 9)
    x = slow_pan(grid)
    plan = STTM(weighted=True).plan(VideoFeatures(x, grid))
    torch.testing.assert_close(plan.weight, 1.0 / plan.sizes[plan.group].float())
    plain = STTM(weighted=False).plan(VideoFeatures(x, grid))
    assert not torch.allclose(plain.weight, 1.0 / plain.sizes[plain.group].float())


def test_features_that_require_a_gradient_are_planned_without_one() -> None:
    grid = VideoGrid(2, 4, 4)
    x = slow_pan(grid).requires_grad_()
    plan = STTM().plan(VideoFeatures(x, grid))
    assert not plan.weight.requires_grad
    assert plan.apply(x).requires_grad


def test_transposed_features_give_the_same_plan() -> None:
    grid = VideoGrid(3, 6, 7)
    x = slow_pan(grid, channels=16)
    plan = STTM().plan(VideoFeatures(x, grid))
    assert torch.equal(STTM().plan(VideoFeatures(x.T.contiguous().T, grid)).group, plan.group)


def test_nothing_is_read_before_it_is_written() -> None:
    grid = VideoGrid(5, 9, 14)
    x = slow_pan(grid)
    methods = [STTM(), STTM(weighted=True, linking="published"), STTM(keep=0.2)]
    expected = [method.plan(VideoFeatures(x, grid)) for method in methods]
    # In this mode torch fills new memory with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        assert bool(torch.empty(9).isnan().all())
        plans = [method.plan(VideoFeatures(x, grid)) for method in methods]
        merged = [plan.apply(x) for plan in plans]
    finally:
        torch.use_deterministic_algorithms(False)
    for plan, features, wanted in zip(plans, merged, expected, strict=True):
        assert torch.equal(plan.group, wanted.group)
        assert torch.equal(features, wanted.apply(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("linking", LINKINGS)
def test_gpu_and_cpu_agree(linking: Linking, dtype: torch.dtype) -> None:
    grid = VideoGrid(16, 14, 14)
    x = slow_pan(grid, channels=64).to(dtype)
    budget = [] if linking == "published" else [STTM(linking=linking, keep=0.25)]
    for method in (STTM(linking=linking), *budget):
        cpu, gpu = method.plan(VideoFeatures(x, grid)), method.plan(VideoFeatures(x.cuda(), grid))
        assert torch.equal(cpu.group, gpu.group.cpu())
        assert gpu.info["boxes"].is_cuda
        tolerance = 4 * torch.finfo(dtype).eps
        merged = gpu.apply(x.cuda()).cpu()
        torch.testing.assert_close(merged, cpu.apply(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_threshold": 1.1}, "spatial_threshold"),
        ({"temporal_threshold": -1.5}, "temporal_threshold"),
        ({"temporal_threshold": float("nan")}, "temporal_threshold"),
        ({"spatial_threshold": "high"}, "spatial_threshold"),
        ({"spatial_threshold": True}, "spatial_threshold"),
        ({"root_level": -2}, "root_level"),
        ({"root_level": 1.0}, "root_level"),
        ({"linking": "undirected"}, "linking"),
        ({"parent": "first"}, "parent"),
        ({"parent": "top_left", "linking": "components"}, "parent"),
        ({"per_head": 0}, "per_head"),
        ({"weighted": 1}, "weighted"),
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"keep": True}, "keep"),
        ({"keep": 0.5, "spatial_threshold": 0.8}, "together with keep"),
        ({"keep": 4, "temporal_threshold": 0.6}, "together with keep"),
        ({"keep": 4, "max_tokens": 4}, "together with keep"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"keep": 0.5, "linking": "published"}, "linking"),
        ({"budget_scope": "all"}, "budget_scope"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        STTM(**options)


def test_bad_features_are_refused() -> None:
    grid = VideoGrid(2, 4, 4)
    x = slow_pan(grid, channels=6)
    with pytest.raises(ConfigError, match="per_head: got 4 heads for 6 channels"):
        STTM(per_head=4).plan(VideoFeatures(x, grid))
    with pytest.raises(ConfigError, match=r"expected \(32, C\)"):
        STTM().plan(VideoFeatures(x[:-1], grid))
    x[3, 2] = torch.nan
    with pytest.raises(ConfigError, match="NaN"):
        STTM().plan(VideoFeatures(x, grid))


def test_the_thresholds_of_a_budget_lead_to_the_same_plan() -> None:
    grid = VideoGrid(8, 16, 16)
    x = slow_pan(grid)
    for keep in (0.05, 0.1, 0.3, 0.5, 0.9, 1.0):
        plan = STTM(keep=keep).plan(VideoFeatures(x, grid))
        assert plan.num_out == int(keep * grid.num_tokens)
        spatial, temporal = plan.info["spatial_threshold"], plan.info["temporal_threshold"]
        same = STTM(spatial_threshold=spatial, temporal_threshold=temporal).plan(
            VideoFeatures(x, grid)
        )
        assert torch.equal(same.group, plan.group)
        assert plan.info["links"] == plan.info["tokens_after_spatial"] - plan.num_out


def test_a_small_budget_goes_on_to_one_cell() -> None:
    grid = VideoGrid(4, 14, 14)
    x = slow_pan(grid)
    assert STTM(keep=16).plan(VideoFeatures(x, grid)).info["levels"][-1] == (4, 4)
    for keep in (1, 2, 5, 15):
        plan = STTM(keep=keep).plan(VideoFeatures(x, grid))
        assert plan.num_out == keep
        assert plan.info["levels"][-1] == (1, 1)


def test_a_budget_out_of_reach_of_one_step_is_refused() -> None:
    grid = VideoGrid(4, 6, 6)
    x = slow_pan(grid)
    assert STTM(keep=4, temporal_threshold=None).plan(VideoFeatures(x, grid)).num_out == 4
    with pytest.raises(BudgetError, match="3 tokens for 4x6x6"):
        STTM(keep=3, temporal_threshold=None).plan(VideoFeatures(x, grid))
    assert STTM(keep=36, spatial_threshold=None).plan(VideoFeatures(x, grid)).num_out == 36
    with pytest.raises(BudgetError, match="35 tokens"):
        STTM(keep=35, spatial_threshold=None).plan(VideoFeatures(x, grid))


def test_a_joint_budget_needs_a_token_for_every_video() -> None:
    grid = VideoGrid(2, 4, 4)
    videos = [VideoFeatures(slow_pan(grid), grid)] * 3
    assert [p.num_out for p in STTM(keep=3, budget_scope="joint").plan_batch(videos)] == [1, 1, 1]
    with pytest.raises(BudgetError, match="2 tokens for 3 videos"):
        STTM(keep=2, budget_scope="joint").plan_batch(videos)
    assert [p.num_out for p in STTM(keep=2).plan_batch(videos)] == [2, 2, 2]
