from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import VidCom2, VideoFeatures
from sttm.ops import naive_field
from sttm.ops.distinctiveness import gaussian_likeness, steady_channels
from tests.methods.field_cases import (
    drifting,
    every_count,
    gpu_agrees,
    promises,
    scaled_alike,
    survives_extremes,
)

test_every_budget_is_met_exactly = promises(lambda keep: VidCom2(keep=keep))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.floats(0.05, 1.0),
    st.booleans(),
    st.sampled_from([0.01, 0.3]),
    st.integers(0, 99),
)
def test_it_equals_its_twin(
    frames: int, side: int, part: float, as_count: bool, temperature: float, seed: int
) -> None:
    grid = VideoGrid(frames, side, 3)
    x = drifting(grid, seed=seed)
    keep = max(1, round(part * grid.num_tokens)) if as_count else part
    plan = VidCom2(keep, temperature).plan(VideoFeatures(x, grid))
    twin = naive_field.vidcom2_kept(naive_field.video(x, frames), keep, temperature, 3)
    assert plan.anchor.tolist() == twin


def test_likeness_equals_its_twin() -> None:
    x = drifting(VideoGrid(4, 2, 3))
    x[7] = 0.0
    _, redundancy = naive_field.vidcom2_scores(naive_field.video(x, 4), 0.01)
    to_video, to_frame = gaussian_likeness(x, 4)
    fast = to_video + to_frame
    torch.testing.assert_close(fast, torch.tensor(redundancy), atol=1e-5, rtol=0)


def test_the_odd_frame_gets_more_and_the_odd_token_stays() -> None:
    grid = VideoGrid(4, 2, 2)
    x = torch.tensor([[1.0, 0.0, 0.0]]).repeat(16, 1)
    x[8:12] = torch.tensor([0.0, 1.0, 0.0])
    x[1] = x[14] = torch.tensor([0.8, 0.0, 0.6])
    plan = VidCom2(keep=5, channel_ratio=1.0).plan(VideoFeatures(x, grid))
    assert plan.info["frame_tokens"].tolist() == [1, 1, 2, 1]
    assert {1, 14} <= set(plan.anchor.tolist())


def test_a_high_temperature_gives_every_frame_the_same() -> None:
    grid = VideoGrid(6, 3, 3)
    plan = VidCom2(keep=27, temperature=1e6).plan(VideoFeatures(drifting(grid), grid))
    assert set(plan.info["frame_tokens"].tolist()) == {4, 5}
    plan = VidCom2(keep=0.5, temperature=1e-9).plan(VideoFeatures(drifting(grid), grid))
    assert plan.info["frame_tokens"].max() > 5


def test_steady_channels_are_those_of_least_variance() -> None:
    grid = VideoGrid(4, 3, 3)
    x = drifting(grid, channels=4) * torch.tensor([1.0, 9.0, 0.1, 5.0])
    assert torch.equal(steady_channels(x, 2), x[:, [0, 2]])
    half, every = VidCom2(keep=0.3), VidCom2(keep=0.3, channel_ratio=1.0)
    kept = half.plan(VideoFeatures(x, grid)).anchor
    assert torch.equal(kept, every.plan(VideoFeatures(x[:, [0, 2]], grid)).anchor)
    assert not torch.equal(kept, every.plan(VideoFeatures(x, grid)).anchor)


def test_a_ratio_is_rounded_per_frame_and_made_exact_over_all() -> None:
    grid = VideoGrid(4, 3, 3)
    x = drifting(grid)
    one = VideoFeatures(x, grid)
    # 0.5 * 9 rounds to 4 in every frame at a high temperature; two more come in.
    plan = VidCom2(keep=0.5, temperature=1e6).plan(one)
    inner = VidCom2(keep=16, temperature=1e6).plan(one)
    assert plan.num_out == 18
    assert set(inner.anchor.tolist()) < set(plan.anchor.tolist())


def test_every_count_and_scale() -> None:
    grid = VideoGrid(4, 3, 3)
    every_count(lambda keep: VidCom2(keep=keep), drifting(grid), grid)
    scaled_alike(VidCom2(keep=0.4), grid)


def test_extreme_features_are_planned() -> None:
    survives_extremes(VidCom2(keep=0.4), VideoGrid(6, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    gpu_agrees(VidCom2(keep=0.3), VideoGrid(16, 14, 14))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep"),
        ({"keep": 0.5, "temperature": 0.0}, "temperature"),
        ({"keep": 0.5, "temperature": float("nan")}, "temperature"),
        ({"keep": 0.5, "temperature": True}, "temperature"),
        ({"keep": 0.5, "channel_ratio": 1.5}, "channel_ratio"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VidCom2(**options)
