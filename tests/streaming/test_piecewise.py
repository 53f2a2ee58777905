"""An exact budget in two steps: pieces by themselves, then all that they leave."""

import pytest
import torch

import sttm
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures
from sttm.piecewise import PiecewiseSTTM
from sttm.streaming import check_streamable

GRID = VideoGrid(23, 4, 5)


def features(seed: int = 0, channels: int = 8) -> torch.Tensor:
    """Noise around a picture that changes half way."""
    made = torch.Generator().manual_seed(seed)
    pictures = torch.randn(2, GRID.tokens_per_frame, channels, generator=made)
    still = pictures[(torch.arange(GRID.frames) > 11).long()]
    return (still + 0.3 * torch.randn(still.shape, generator=made)).reshape(-1, channels)


@pytest.mark.parametrize("keep", [60, 200, 0.4, 460, 1.0])
@pytest.mark.parametrize("piece", [1, 5, 23, 99])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_count_is_exact(keep: float | int, piece: int, weighted: bool) -> None:
    method = sttm.STTM(keep=keep, piece=piece, weighted=weighted)
    plan = method.plan(VideoFeatures(features(), GRID)).check()
    wanted = keep if isinstance(keep, int) else int(keep * GRID.num_tokens)
    assert plan.num_out == wanted
    assert plan.info["boxes"].shape == (wanted, 5)


def test_means_are_those_of_all_cells() -> None:
    """Both steps together weigh every cell alike, whichever piece it comes from."""
    x = features().double()
    plan = sttm.STTM(keep=50, piece=6, weighted=True).plan(VideoFeatures(x, GRID))
    for group in range(plan.num_out):
        mean = x[plan.group == group].mean(0)
        torch.testing.assert_close(plan.apply(x)[group], mean, rtol=1e-6, atol=1e-6)


def test_a_piece_decides_alone() -> None:
    """What a piece leaves does not depend on the others: only the second step sees them all."""
    method, x = sttm.STTM(keep=50, piece=6), features()
    patches = GRID.tokens_per_frame
    grown = VideoGrid(6, GRID.height, GRID.width)
    first = method.plan_piece(x[: 6 * patches], GRID)
    alone = sttm.STTM(keep=first.num_out).plan(VideoFeatures(x[: 6 * patches], grown))
    assert first.num_out == 53  # four times 50, of 6 of 23 frames, rounded up
    assert torch.equal(first.group, alone.group)


@pytest.mark.parametrize("chunks", [(23,), (1,) * 23, (6, 6, 6, 5), (10, 13)])
@pytest.mark.parametrize("keep", [60, 0.3])
def test_chunks_do_not_matter(chunks: tuple[int, ...], keep: float | int) -> None:
    method, x = sttm.STTM(keep=keep, piece=6), features()
    merger = PiecewiseSTTM(method, GRID.height, GRID.width, GRID.frames)
    assert merger.pending() is None
    for chunk in torch.split(x, [size * GRID.tokens_per_frame for size in chunks]):
        assert merger.push(chunk) is None
    plan, tokens = method.plan(VideoFeatures(x, GRID)), merger.pending()
    assert tokens is not None
    torch.testing.assert_close(tokens.features, plan.apply(x))
    assert torch.equal(tokens.anchor, plan.anchor)
    assert torch.equal(tokens.box, plan.info["boxes"])


def test_what_was_asked_about_before_the_end_changes_nothing() -> None:
    method, x = sttm.STTM(keep=60, piece=6), features()
    merger = PiecewiseSTTM(method, GRID.height, GRID.width, GRID.frames)
    for chunk in torch.split(x, 4 * GRID.tokens_per_frame):
        merger.push(chunk)
        tokens = merger.pending()
    assert tokens is not None
    assert torch.equal(tokens.anchor, method.plan(VideoFeatures(x, GRID)).anchor)


def test_fewer_tokens_than_cells_are_refused() -> None:
    with pytest.raises(ConfigError, match="one for every box"):
        sttm.STTM(keep=15, piece=11).plan(VideoFeatures(features(), GRID))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 9},
        {"keep": 9, "criterion": "distortion"},
        {"keep": 9, "budget_scope": "joint"},
    ],
)
def test_without_an_exact_budget_of_one_video(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="piece: got 4"):
        sttm.STTM(piece=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("piece", [0, -1, 2.5, True])
def test_no_number_of_frames(piece: object) -> None:
    with pytest.raises(ConfigError, match="piece: got"):
        sttm.STTM(keep=9, piece=piece)  # type: ignore[arg-type]


def test_a_stream_must_know_its_length() -> None:
    check_streamable(sttm.STTM(keep=9, piece=4), frames=100)
    with pytest.raises(ConfigError, match="keep: got 9"):
        check_streamable(sttm.STTM(keep=9, piece=4))
