"""STTM by distortion: exact budgets, limits, caps, several videos, options, half precision."""

from typing import Any

import pytest
import torch

from sttm.chat.identity import method_key
from sttm.errors import BudgetError, ConfigError
from sttm.evaluation.specs import parse_spec
from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.plan import MergePlan
from tests.methods.test_sttm import slow_pan

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def video(grid: VideoGrid, channels: int = 8, seed: int = 0, noise: float = 0.5) -> VideoFeatures:
    return VideoFeatures(slow_pan(grid, channels, seed, noise), grid)


def lost(video: VideoFeatures, plan: MergePlan) -> float:
    """Measure the share of the energy that a plan loses."""
    x = video.x.double()
    mean = torch.zeros(plan.num_out, x.shape[1], dtype=torch.float64)
    mean.index_add_(0, plan.group, x).div_(plan.sizes[:, None])
    return float((x - mean[plan.group]).square().sum() / x.square().sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (4, 1, 3), (3, 5, 7)])
def test_every_count_is_met(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    grid = VideoGrid(*shape)
    x = slow_pan(grid).to(dtype)
    before = x.clone()
    for keep in range(1, grid.num_tokens + 1):
        plan = STTM(keep=keep, criterion="distortion").plan(VideoFeatures(x, grid)).check()
        assert plan.num_out == keep
        # Plain means, at the first token of every group.
        sizes = plan.sizes[plan.group].float()
        torch.testing.assert_close(plan.weight * sizes, torch.ones_like(sizes))
        first = torch.full((keep,), plan.num_in)
        first.scatter_reduce_(0, plan.group, torch.arange(plan.num_in), "amin")
        assert torch.equal(first, plan.anchor)
        assert plan.apply(x).dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("keep", [0.5, 0.2, 0.05])
@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
def test_less_is_lost_than_by_cosines(keep: float, noise: float) -> None:
    clip = video(VideoGrid(8, 14, 14), 32, noise=noise)
    plan = STTM(keep=keep, criterion="distortion").plan(clip)
    assert plan.info["distortion"] == pytest.approx(lost(clip, plan), rel=1e-4)
    assert lost(clip, plan) < lost(clip, STTM(keep=keep).plan(clip))


@pytest.mark.parametrize("channels", [8, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_limit_holds_and_more_is_merged_where_more_may_be_lost(
    channels: int, dtype: torch.dtype
) -> None:
    grid = VideoGrid(4, 7, 9)
    clip = VideoFeatures(slow_pan(grid, channels).to(dtype), grid)
    before = grid.num_tokens + 1
    for limit in (0.0, 0.001, 0.03, 0.1, 0.3, 0.9):
        plan = STTM(max_distortion=limit, criterion="distortion").plan(clip)
        assert lost(clip, plan) <= limit + 1e-6
        assert plan.info["distortion"] == pytest.approx(lost(clip, plan), rel=1e-3, abs=1e-9)
        assert plan.num_out <= before
        before = plan.num_out
    assert before < grid.num_tokens / 4


def test_a_limit_of_zero_joins_equal_tokens_only() -> None:
    grid = VideoGrid(5, 3, 4)
    still = slow_pan(VideoGrid(1, 3, 4)).repeat(5, 1)
    plan = STTM(max_distortion=0.0, criterion="distortion").plan(VideoFeatures(still, grid))
    assert plan.group.tolist() == list(range(12)) * 5


def test_a_busy_video_keeps_more_under_the_same_limit() -> None:
    grid = VideoGrid(6, 6, 6)
    calm, busy = video(grid, noise=0.05), video(grid, noise=1.0)
    method = STTM(max_distortion=0.1, criterion="distortion")
    assert 2 * method.plan(calm).num_out < method.plan(busy).num_out


def test_a_cap_binds_only_where_more_would_be_left() -> None:
    grid = VideoGrid(6, 6, 6)
    clip = video(grid)
    free = STTM(max_distortion=0.1, criterion="distortion").plan(clip)
    for cap in (free.num_out - 5, free.num_out, free.num_out + 5):
        plan = STTM(max_distortion=0.1, max_tokens=cap, criterion="distortion").plan(clip)
        assert plan.num_out == min(cap, free.num_out)


def test_videos_share_a_budget_at_one_price() -> None:
    grids = (VideoGrid(4, 6, 6), VideoGrid(3, 4, 5), VideoGrid(1, 1, 1))
    clips = [
        video(grid, seed=i, noise=noise) for i, (grid, noise) in enumerate(zip(grids, (0.05, 2, 1)))
    ]
    method = STTM(keep=0.3, budget_scope="joint", criterion="distortion")
    plans = method.plan_batch(clips)
    total = sum(grid.num_tokens for grid in grids)
    assert sum(plan.num_out for plan in plans) == int(0.3 * total)
    shares = [plan.retention for plan in plans]
    assert shares[0] < 0.3 < shares[1]
    for keep in range(3, total + 1, 17):
        method = STTM(keep=keep, budget_scope="joint", criterion="distortion")
        assert sum(plan.num_out for plan in method.plan_batch(clips)) == keep
    with pytest.raises(BudgetError, match="2 tokens for 3 videos"):
        STTM(keep=2, budget_scope="joint", criterion="distortion").plan_batch(clips)


def test_videos_share_a_limit() -> None:
    grid = VideoGrid(4, 6, 6)
    clips = [video(grid, seed=1, noise=0.2), video(grid, seed=2, noise=1.5)]
    method = STTM(max_distortion=0.2, budget_scope="joint", criterion="distortion")
    plans = method.plan_batch(clips)
    energy = [float(clip.x.double().square().sum()) for clip in clips]
    gone = sum(e * lost(clip, plan) for e, clip, plan in zip(energy, clips, plans, strict=True))
    assert 0.15 < gone / sum(energy) <= 0.2
    alone = STTM(max_distortion=0.2, criterion="distortion")
    together = alone.plan_batch(clips)
    for clip, plan in zip(clips, together, strict=True):
        assert torch.equal(plan.group, alone.plan(clip).group)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "entropy"}, "criterion: got 'entropy', expected one of cosine, distortion"),
        ({"criterion": "distortion"}, "expected one of them"),
        ({"criterion": "distortion", "max_tokens": 9}, "expected one of them"),
        ({"criterion": "distortion", "keep": 9, "max_distortion": 0.1}, "expected one of them"),
        ({"criterion": "distortion", "keep": 9, "max_tokens": 9}, "together with keep"),
        ({"criterion": "distortion", "max_distortion": 1.5}, r"a number in \[0, 1\]"),
        ({"criterion": "distortion", "max_distortion": True}, r"a number in \[0, 1\]"),
        ({"criterion": "distortion", "max_distortion": float("nan")}, r"a number in \[0, 1\]"),
        ({"max_distortion": 0.1}, "only with criterion='distortion'"),
        ({"keep": 0.1, "max_distortion": 0.1}, "only with criterion='distortion'"),
        *(
            ({"criterion": "distortion", "keep": 9, **option}, "only with criterion='cosine'")
            for option in (
                {"spatial_threshold": 0.8},
                {"spatial_threshold": None},
                {"temporal_threshold": 0.6},
                {"root_level": 0},
                {"linking": "components"},
                {"parent": "top_left"},
                {"weighted": True},
                {"per_head": 2},
            )
        ),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        STTM(**options)


def test_as_it_is_written_on_a_command_line() -> None:
    spec = parse_spec("sttm:criterion=distortion")
    assert spec.build(0.3) == STTM(keep=0.3, criterion="distortion")
    limit = parse_spec("sttm:criterion=distortion,max_distortion=0.1,keep=none")
    assert limit.build(None) == STTM(max_distortion=0.1, criterion="distortion")


def test_saved_videos_tell_criteria_apart() -> None:
    keys = {
        method_key(STTM(keep=0.3)),
        method_key(STTM(keep=0.3, criterion="distortion")),
        method_key(STTM(max_distortion=0.3, criterion="distortion")),
    }
    assert len(keys) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels", [64, 896])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_and_cpu_agree(channels: int, dtype: torch.dtype) -> None:
    grid = VideoGrid(16, 14, 14)
    x = slow_pan(grid, channels).to(dtype)
    for method in (
        STTM(keep=0.25, criterion="distortion"),
        STTM(max_distortion=0.2, criterion="distortion"),
    ):
        cpu, gpu = method.plan(VideoFeatures(x, grid)), method.plan(VideoFeatures(x.cuda(), grid))
        assert torch.equal(cpu.group, gpu.group.cpu())
