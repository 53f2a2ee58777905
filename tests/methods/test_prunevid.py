from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import PruneVidMerge, VideoFeatures
from sttm.ops import naive_field
from sttm.ops.segments import (
    fewer_segments,
    lasting_runs,
    more_segments,
    segment_starts,
    stillness,
)
from tests.methods.field_cases import (
    drifting,
    every_count,
    gpu_agrees,
    groups,
    promises,
    survives_extremes,
)

test_every_budget_is_met_exactly = promises(lambda keep: PruneVidMerge(keep=keep))


def scenes(seed: int = 0) -> tuple[torch.Tensor, VideoGrid]:
    """Return two scenes of four frames; places 0 to 5 are still in each, places 6 to 8 are not."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([torch.randn(1, 9, 6, generator=generator).repeat(4, 1, 1) for _ in range(2)])
    # Place 7 is minus place 6, so that the frames of a scene have the same mean.
    x[:, 6] = torch.randn(6, generator=generator) * torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    x[:, 7:] = torch.stack([-x[:, 6], torch.zeros(8, 6)], dim=1)
    return x.reshape(72, 6), VideoGrid(8, 3, 3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.sampled_from([0.2, 0.5, 1.0]), st.sampled_from([4, 15, 20, 36]))
def test_it_equals_its_twin(seed: int, ratio: float, places: int) -> None:
    """Sets of more than 14 tokens and smaller ones, still and moving."""
    grid = VideoGrid(7, places, 1)
    x = scenes(seed)[0] if places == 36 else drifting(grid, seed=seed)
    grid = VideoGrid(8, 3, 3) if places == 36 else grid
    plan = (
        PruneVidMerge(cluster_ratio=ratio, still_threshold=0.81)
        .plan(VideoFeatures(x, grid))
        .check()
    )
    expected = naive_field.prunevid_groups(
        naive_field.video(x, grid.frames), (0.25, ratio), 0.81, 7
    )
    assert groups(plan) == expected


def test_scenes_and_still_places_are_found() -> None:
    x, grid = scenes()
    plan = PruneVidMerge(cluster_ratio=1.0).plan(VideoFeatures(x, grid))
    assert plan.info["segments"].tolist() == [0, 4]
    assert plan.info["still"].tolist() == [6, 6]
    # Six still tokens for each scene, three moving ones for each frame.
    assert plan.num_out == 2 * 6 + 8 * 3
    assert [0, 9, 18, 27] in groups(plan)
    assert PruneVidMerge(keep=36).plan(VideoFeatures(x, grid)).num_out == 36


def test_a_large_budget_averages_only_the_stillest_places() -> None:
    x, grid = scenes()
    # One place averaged over four frames leaves three tokens fewer.
    plan = PruneVidMerge(keep=69).plan(VideoFeatures(x, grid))
    assert int(plan.info["still"].sum()) == 1
    assert int(PruneVidMerge(keep=70).plan(VideoFeatures(x, grid)).info["still"].sum()) == 0


def test_a_tiny_budget_joins_whole_segments() -> None:
    x, grid = scenes()
    plan = PruneVidMerge(keep=2).plan(VideoFeatures(x, grid))
    assert groups(plan) == [[*range(36)], [*range(36, 72)]]
    assert groups(PruneVidMerge(keep=1).plan(VideoFeatures(x, grid))) == [[*range(72)]]


def test_the_most_similar_neighbours_are_joined_first() -> None:
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    starts = torch.arange(4)
    assert fewer_segments(means, starts, 3).tolist() == [0, 1, 3]
    assert fewer_segments(means, starts, 1).tolist() == [0]
    assert fewer_segments(means, starts, 4).tolist() == [0, 1, 2, 3]


def test_the_least_similar_neighbours_are_cut_first() -> None:
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    starts = torch.tensor([0, 2])
    assert more_segments(means, starts, 2).tolist() == [0, 2]
    assert more_segments(means, starts, 3).tolist() == [0, 2, 3]
    assert more_segments(means, starts, 4).tolist() == [0, 1, 2, 3]


def test_a_long_segment_of_few_places_is_cut_to_meet_the_budget() -> None:
    x = torch.tensor([1.5410, -0.2934, -2.1788, 0.5684])[:, None]
    every_count(lambda keep: PruneVidMerge(keep=keep), x, VideoGrid(4, 1, 1))


def test_a_single_frame_that_comes_back_is_dissolved() -> None:
    means = torch.tensor([0.0, 0.1, 0.05, 9.0, 9.1, 9.05, 0.15])[:, None]
    assert segment_starts(means, 2, 3).tolist() == [0, 3]
    assert segment_starts(means[:1], 1, 3).tolist() == [0]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14))
def test_lasting_runs_equal_their_twin(labels: list[int]) -> None:
    assert [start for start, _ in lasting_runs(labels)] == naive_field.lasting_runs(labels)


@pytest.mark.parametrize(
    ("labels", "starts"),
    [
        ("aaabbb", [0, 3]),
        ("aabaaa", [0]),  # b is a single frame, and the first run of a is not a's longest
        ("aabbbcdd", [0, 2, 6]),  # c joins bbb, the longer one
        ("aabccbb", [0, 3, 5]),  # the first b joins aa, which is as long as cc
        ("baacc", [0, 3]),  # b has no run to its left
        ("aabcccdeffff", [0, 2, 8]),  # with b ccc is as long as ffff: d and e join it
        ("abab", [0]),  # nothing lasts
    ],
)
def test_runs_that_do_not_last_join_the_longer_one(labels: str, starts: list[int]) -> None:
    assert [start for start, _ in lasting_runs([*map(ord, labels)])] == starts


def test_stillness_is_the_mean_over_pairs() -> None:
    x, grid = scenes()
    x[5] = 0.0
    fast = stillness(x * 2.0**60, grid.frames, torch.tensor([0, 1, 5]))
    frames = naive_field.video(x, 8)
    for segment, span in enumerate((range(1), range(1, 5), range(5, 8))):
        slow = [naive_field._stillness([frames[t][p] for t in span]) for p in range(9)]
        torch.testing.assert_close(fast[segment], torch.tensor(slow), atol=1e-6, rtol=0)


def test_every_count() -> None:
    x, grid = scenes()
    every_count(lambda keep: PruneVidMerge(keep=keep), x, grid)
    grid = VideoGrid(6, 2, 3)
    every_count(lambda keep: PruneVidMerge(keep=keep), drifting(grid), grid)


def test_extreme_features_are_planned() -> None:
    survives_extremes(PruneVidMerge(keep=0.4), VideoGrid(6, 3, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees() -> None:
    gpu_agrees(PruneVidMerge(keep=0.3), VideoGrid(16, 14, 14))
    gpu_agrees(PruneVidMerge(), VideoGrid(16, 14, 14))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep"),
        ({"keep": 0.5, "cluster_ratio": 0.5}, "together with keep"),
        ({"cluster_ratio": 0.0}, "cluster_ratio"),
        ({"still_threshold": 1.5}, "still_threshold"),
        ({"still_threshold": float("nan")}, "still_threshold"),
        ({"segment_ratio": True}, "segment_ratio"),
        ({"neighbours": 0}, "neighbours"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PruneVidMerge(**options)
