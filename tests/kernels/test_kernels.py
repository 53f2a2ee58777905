"""Every kernel against torch and its naive twin; whole plans with kernels against those without."""

from collections.abc import Callable

import pytest
import torch

from sttm import plan as plan_module
from sttm.grid import VideoGrid
from sttm.kernels import known_answers
from sttm.kernels.segment_sums import segment_sums
from sttm.methods import STTM, VideoFeatures
from sttm.ops import naive, quadtree, similarity, ward
from sttm.ops.pyramid import level_sizes
from sttm.ops.quadtree import Pooling, Quadtree, grow
from sttm.plan import MergePlan
from tests.kernels.conftest import INTERPRETED
from tests.ops.merge_cases import assert_same, is_close_call, make_video, settings_of

pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The interpreter cuts float32 off to bfloat16 where every device rounds it.
CUTS_OFF = INTERPRETED
# Two float32 cosines that may differ in their last bit.
BIT = 2**-23


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Turn the kernels on or off; where they are on, the device is one that must not be read."""

    def turn(on: bool) -> None:
        for module in (quadtree, plan_module):
            monkeypatch.setattr(module, "use_kernels", lambda _: on)
        for module in (quadtree, similarity, ward):
            monkeypatch.setattr(module, "can_select", lambda device: not on)

    return turn


def case(grid: VideoGrid, channels: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a video with zeros, repeated rows and noise in it."""
    x = make_video("smooth", grid, channels, channels)
    x[::5], x[1::7] = 0.0, x[-1]
    return x.to(device, dtype)


def grown(x: torch.Tensor, grid: VideoGrid, pooling: Pooling) -> Quadtree:
    return grow(
        x, grid.frames, tuple(level_sizes(grid.height, grid.width, to_single=True)), pooling
    )


def assert_same_tree(found: Quadtree, wanted: Quadtree, *, cut_off: bool) -> None:
    """Features to the bit, squared norms to float64 and scores to float32 rounding."""
    if cut_off:
        torch.testing.assert_close(found.coarse, wanted.coarse, rtol=2**-6, atol=2**-6)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=2**-6)
        return
    assert torch.equal(found.coarse, wanted.coarse)
    torch.testing.assert_close(found.squares, wanted.squares, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=BIT)


POOLINGS = [(7, Pooling()), (24, Pooling(True, 3)), (20, Pooling(False, 2, published=True))]
PYRAMIDS = [
    *[((2, 3, 5), *each, dtype) for each in POOLINGS for dtype in DTYPES],
    *[((3, 1, 1), *POOLINGS[0], dtype) for dtype in DTYPES],
    ((2, 1, 4), *POOLINGS[0], torch.float32),
    *[((1, 7, 13), *each, torch.bfloat16) for each in POOLINGS[:2]],
    # Parts of 275 channels, not a multiple of a block.
    ((1, 4, 3), 1100, Pooling(heads=2), torch.float16),
    ((1, 14, 14), 12, Pooling(), torch.bfloat16),
    ((1, 27, 27), 12, Pooling(), torch.float16),
]


@pytest.mark.parametrize(("shape", "channels", "pooling", "dtype"), PYRAMIDS, ids=str)
def test_pyramids_are_those_of_torch(
    shape: tuple[int, int, int],
    channels: int,
    pooling: Pooling,
    dtype: torch.dtype,
    device: torch.device,
    switch: Callable[[bool], None],
) -> None:
    grid = VideoGrid(*shape)
    x = case(grid, channels, dtype, device)
    before = x.clone()
    switch(False)
    wanted = grown(x, grid, pooling)
    switch(True)
    found = grown(x, grid, pooling)
    assert torch.equal(x, before)
    cut_off = CUTS_OFF and pooling.published and dtype == torch.bfloat16
    assert_same_tree(found, wanted, cut_off=cut_off)


def test_scores_are_those_of_the_naive_twin(
    device: torch.device, switch: Callable[[bool], None]
) -> None:
    grid = VideoGrid(1, 3, 4)
    x = case(grid, 12, torch.float32, device)
    switch(True)
    tree = grow(x, 1, ((3, 4), (2, 2)), Pooling())
    twin = naive.Settings(root_level=0)
    cells = naive.pyramid(x.cpu().double().view(3, 4, 12), 0, twin, torch.float64)
    scores = [naive.score(cell, twin) for cell in cells]
    torch.testing.assert_close(tree.scores[0].cpu(), torch.tensor(scores), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "heads"), [(1, 1), (7, 1), (24, 3), (1100, 2)])
def test_cosines_of_pairs_are_those_of_torch(
    dtype: torch.dtype,
    channels: int,
    heads: int,
    device: torch.device,
    switch: Callable[[bool], None],
) -> None:
    grid = VideoGrid(2, 3, 4)
    switch(False)
    tree = grown(case(grid, channels, dtype, device), grid, Pooling(heads=heads))
    generator = torch.Generator().manual_seed(0)
    row, other = torch.randint(0, len(tree.squares), (2, 30), generator=generator).to(device)
    other[:3] = row[:3]
    wanted = torch.arange(30, device=device) % 4 != 1
    expected = tree.cosines(row, other, wanted)
    switch(True)
    found = tree.cosines(row, other, wanted)
    torch.testing.assert_close(found[wanted], expected[wanted], rtol=0, atol=BIT)
    assert (found[~wanted] == -torch.inf).all()
    x = torch.cat([tree.x, tree.coarse.flatten(0, 1).to(dtype)]).double().cpu()
    if dtype == torch.float32:
        pairs = zip(row[wanted].tolist(), other[wanted].tolist(), strict=True)
        literal = [naive.cosine(x[a], x[b], heads) for a, b in pairs]
        torch.testing.assert_close(found[wanted].cpu(), torch.tensor(literal), rtol=0, atol=1e-6)


def test_equal_rows_have_a_cosine_of_exactly_one(
    device: torch.device, switch: Callable[[bool], None]
) -> None:
    grid = VideoGrid(2, 4, 4)
    x = torch.randn(32, 40, generator=torch.Generator().manual_seed(0)).to(device)
    x[16:] = x[:16]
    switch(True)
    tree = grown(x, grid, Pooling())
    row = torch.arange(16, device=device)
    assert (tree.cosines(row, row + 16, row >= 0) == 1).all()


def test_no_pairs_have_no_cosines(device: torch.device, switch: Callable[[bool], None]) -> None:
    grid = VideoGrid(1, 2, 2)
    switch(True)
    tree = grown(case(grid, 4, torch.float32, device), grid, Pooling())
    none = torch.empty(0, dtype=torch.int64, device=device)
    assert tree.cosines(none, none, none > 0).shape == (0,)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("width", [1, 7, 600])
def test_segment_sums_are_those_of_torch(
    dtype: torch.dtype, width: int, device: torch.device, switch: Callable[[bool], None]
) -> None:
    generator = torch.Generator().manual_seed(width)
    label = torch.tensor([0, 0, 1, 0, 1, -1, 6, 7, 0, 7, 0, 0, 0, 0])
    plan = MergePlan.from_labels(label, torch.rand(14, generator=generator)).to(device)
    x = torch.randn(14, width, generator=generator).to(device, dtype)
    switch(False)
    wanted = plan.apply(x)
    twin = naive.weighted_sum(x.cpu(), plan.group.cpu(), plan.weight.cpu(), plan.num_out)
    switch(True)
    for laid_out in (x, x.T.contiguous().T, x[:, None].expand(-1, 2, -1)[:, 0]):
        found = plan.apply(laid_out)
        assert found.dtype == dtype
        rounding = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(found, wanted, rtol=rounding, atol=4 * rounding)
        torch.testing.assert_close(found.cpu().double(), twin, rtol=rounding, atol=4 * rounding)


def test_segments_are_summed_in_the_order_of_their_tokens(device: torch.device) -> None:
    """In float32 ``2**24 + 1`` is ``2**24``: every order of addition has another result."""
    rows = torch.tensor([2.0**24, 1.0, -(2.0**24), 1.0, 1.0, 1.0], device=device)[:, None]
    token = torch.arange(6, device=device)
    offset, share = token[[0, -1]] + token[[0, 1]], torch.ones(6, device=device)
    for order, total in (([0, 1, 2, 3, 4, 5], 3.0), ([0, 2, 1, 3, 4, 5], 4.0)):
        index = torch.tensor(order, device=device)
        assert segment_sums(rows, index, offset, share).item() == total


def test_a_gradient_goes_through_torch(
    device: torch.device, switch: Callable[[bool], None]
) -> None:
    plan = MergePlan.from_labels(torch.tensor([0, 0, 2])).to(device)
    x = torch.ones(3, 2, device=device, requires_grad=True)
    switch(True)
    plan.apply(x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]


SETTINGS = [
    STTM(spatial_threshold=0.9, temporal_threshold=0.7),
    STTM(spatial_threshold=0.9, temporal_threshold=0.8, weighted=True, per_head=2),
    STTM(spatial_threshold=0.9, temporal_threshold=0.7, linking="components"),
    STTM(keep=0.3),
    STTM(keep=0.05, weighted=True),
    STTM(max_tokens=0.2),
]


@pytest.mark.parametrize("method", SETTINGS, ids=str)
def test_plans_are_those_of_torch(
    method: STTM, device: torch.device, switch: Callable[[bool], None]
) -> None:
    merged = 0
    for kind, dtype in (("smooth", torch.bfloat16), ("signs", torch.float32)):
        grid = VideoGrid(3, 5, 4)
        video = VideoFeatures(make_video(kind, grid, 8, 3).to(device, dtype), grid)
        switch(False)
        wanted = method.plan(video)
        switch(True)
        found = method.plan(video)
        merged += wanted.num_out < wanted.num_in
        assert torch.equal(found.group, wanted.group)
        assert torch.equal(found.anchor, wanted.anchor)
        assert torch.equal(found.weight, wanted.weight)
        assert {k: v for k, v in found.info.items() if k not in ("boxes", "cells")} == {
            k: v for k, v in wanted.info.items() if k not in ("boxes", "cells")
        }
    assert merged


def test_the_plan_is_that_of_the_naive_twin(
    device: torch.device, switch: Callable[[bool], None]
) -> None:
    grid = VideoGrid(2, 5, 6)
    method = STTM(spatial_threshold=0.85, temporal_threshold=0.7, root_level=0)
    x = make_video("smooth", grid, 6, 1)
    merged = naive.merge(x, 2, 5, 6, settings_of(method))
    assert not is_close_call(merged, settings_of(method))
    switch(True)
    assert_same(x.to(device), grid, method, merged)


def test_known_answers(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked before the first use: right kernels pass, and a wrong one is named."""
    assert known_answers.wrong_kernels(device) == []

    def wrong(*given: torch.Tensor) -> torch.Tensor:
        return segment_sums(*given) + 1e-3

    monkeypatch.setattr(known_answers, "segment_sums", wrong)
    assert known_answers.wrong_kernels(device) == ["segment_sums"]
