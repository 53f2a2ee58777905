import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import ToMe, VideoFeatures
from sttm.ops import naive_field, similarity
from tests.methods.field_cases import (
    assert_same,
    drifting,
    every_count,
    gpu_agrees,
    groups,
    noisy,
    promises,
    scaled_alike,
    survives_extremes,
)

test_every_budget_is_met_exactly = promises(lambda keep: ToMe(keep=keep), leading=False)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.floats(0.02, 1.0), st.integers(0, 99))
def test_it_equals_its_twin(frames: int, side: int, part: float, seed: int) -> None:
    grid = VideoGrid(frames, side, 3)
    x = noisy(grid, seed=seed)
    count = max(1, round(part * grid.num_tokens))
    expected = naive_field.tome_groups(x.double().tolist(), count)
    plan = ToMe(keep=count).plan(VideoFeatures(x, grid))
    assert dict(zip(plan.anchor.tolist(), groups(plan), strict=True)) == expected


def test_a_round_merges_the_most_similar_pairs() -> None:
    grid = VideoGrid(1, 1, 5)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [1.0, 0.1], [0.1, 1.0]])
    # A is 0, 2 and 4: 2 and 3 are most alike, then 0 and 3, 4 and 1 (nearly as much).
    assert groups(ToMe(keep=4).plan(VideoFeatures(x, grid))) == [[0], [1], [2, 3], [4]]
    plan = ToMe(keep=4).plan(VideoFeatures(x, grid))
    assert plan.anchor.tolist() == [0, 1, 3, 4]  # 2 merges into 3, its token of B
    plan = ToMe(keep=3).plan(VideoFeatures(x, grid))
    assert len(groups(plan)) == 3
    assert plan.info["rounds"] == 1
    torch.testing.assert_close(
        ToMe(keep=1).plan(VideoFeatures(x, grid)).apply(x), x.mean(dim=0, keepdim=True)
    )


def test_means_are_weighted_by_size() -> None:
    grid = VideoGrid(4, 3, 3)
    plan = ToMe(keep=5).plan(VideoFeatures(drifting(grid), grid))
    assert plan.info["rounds"] >= 3
    torch.testing.assert_close(plan.weight, 1.0 / plan.sizes[plan.group])


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = VideoGrid(6, 4, 4)
    x = drifting(grid)
    whole = ToMe(keep=0.2).plan(VideoFeatures(x, grid))
    monkeypatch.setattr(similarity, "_CHUNK", 100)
    assert_same(whole, ToMe(keep=0.2).plan(VideoFeatures(x, grid)))


def test_a_coarse_matmul_setting_does_not_decide() -> None:
    grid = VideoGrid(6, 4, 4)
    x = drifting(grid, 32)
    exact = ToMe(keep=0.2).plan(VideoFeatures(x, grid))
    torch.set_float32_matmul_precision("medium")
    try:
        assert_same(exact, ToMe(keep=0.2).plan(VideoFeatures(x, grid)))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_every_count_and_scale() -> None:
    grid = VideoGrid(3, 3, 3)
    every_count(lambda keep: ToMe(keep=keep), drifting(grid), grid, leading=False)
    scaled_alike(ToMe(keep=0.4), grid)


def test_extreme_features_are_planned() -> None:
    survives_extremes(ToMe(keep=0.4), VideoGrid(6, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    gpu_agrees(ToMe(keep=0.3), VideoGrid(8, 10, 10))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep"):
        ToMe(keep=0)
