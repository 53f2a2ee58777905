from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import SimpleCluster, VideoFeatures
from sttm.ops import naive_kmeans, similarity
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

test_every_budget_is_met_exactly = promises(lambda keep: SimpleCluster(keep=keep))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.floats(0.02, 0.99),
    st.integers(1, 4),
    st.integers(2, 9),
)
def test_it_equals_its_twin(
    frames: int, side: int, part: float, rounds: int, channels: int
) -> None:
    grid = VideoGrid(frames, side, 3)
    x = noisy(grid, channels, seed=channels)
    count = min(max(1, round(part * grid.num_tokens)), grid.num_tokens - 1)
    places = [(t, y, c) for t in range(frames) for y in range(side) for c in range(3)]
    points = [
        naive_kmeans.rotated(token, place, 100.0)
        for token, place in zip(x.double().tolist(), places, strict=True)
    ]
    plan = SimpleCluster(keep=count, rounds=rounds, base=100.0).plan(VideoFeatures(x, grid))
    assert groups(plan) == naive_kmeans.kmeans_groups(points, count, rounds)


def test_clusters_are_means_of_the_features_without_the_embedding() -> None:
    grid = VideoGrid(4, 3, 3)
    x = drifting(grid)
    plan = SimpleCluster(keep=5).plan(VideoFeatures(x, grid))
    for m, members in enumerate(groups(plan)):
        torch.testing.assert_close(plan.apply(x)[m], x[members].mean(dim=0))
    assert 1 <= plan.info["rounds"] <= 10


def test_equal_tokens_are_told_apart_by_their_place_alone() -> None:
    x = torch.ones(4, 6)
    plan = SimpleCluster(keep=2).plan(VideoFeatures(x, VideoGrid(4, 1, 1)))
    assert groups(plan) == [[0, 1], [2, 3]]


def test_a_frozen_round_ends_the_search() -> None:
    x = torch.eye(3).repeat(4, 1)
    plan = SimpleCluster(keep=3, base=1e9, rounds=50).plan(VideoFeatures(x, VideoGrid(4, 1, 3)))
    assert plan.info["rounds"] < 50


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = VideoGrid(6, 4, 4)
    x = drifting(grid)
    whole = SimpleCluster(keep=0.2).plan(VideoFeatures(x, grid))
    monkeypatch.setattr(similarity, "_CHUNK", 100)
    assert_same(whole, SimpleCluster(keep=0.2).plan(VideoFeatures(x, grid)))


def test_every_count_and_scale() -> None:
    grid = VideoGrid(3, 3, 3)
    every_count(lambda keep: SimpleCluster(keep=keep), drifting(grid), grid)
    every_count(lambda keep: SimpleCluster(keep=keep), torch.zeros(27, 4), grid)
    scaled_alike(SimpleCluster(keep=0.4), grid)


def test_extreme_features_are_planned() -> None:
    survives_extremes(SimpleCluster(keep=0.4), VideoGrid(6, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    gpu_agrees(SimpleCluster(keep=0.3), VideoGrid(8, 10, 10))


@pytest.mark.parametrize(
    "options", [{"keep": 0}, {"keep": 0.5, "rounds": 0}, {"keep": 0.5, "base": 0.5}]
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=list(options)[-1]):
        SimpleCluster(**options)
