"""What every comparison method promises, on random videos of any shape."""

from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.budget import token_budget
from sttm.grid import VideoGrid
from sttm.methods import Method, VideoFeatures
from sttm.plan import MergePlan

Video = tuple[torch.Tensor, VideoGrid]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def noisy(grid: VideoGrid, channels: int = 6, seed: int = 0) -> torch.Tensor:
    """Return independent random features, without ties."""
    return torch.randn(grid.num_tokens, channels, generator=torch.Generator().manual_seed(seed))


def drifting(grid: VideoGrid, channels: int = 6, seed: int = 0) -> torch.Tensor:
    """Return features that differ between places and change slowly over time."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randn(1, grid.tokens_per_frame, channels, generator=generator)
    step = torch.randn(grid.frames, grid.tokens_per_frame, channels, generator=generator)
    return (place + 0.4 * step.cumsum(dim=0)).reshape(grid.num_tokens, channels)


@st.composite
def any_video(draw: st.DrawFn, most_frames: int = 9, most_places: int = 8) -> Video:
    """Draw a video of any shape: random, drifting, still, zero, or of equal tokens."""
    side = st.integers(1, most_places)
    grid = VideoGrid(draw(st.integers(1, most_frames)), draw(side), draw(side))
    seed, kind = draw(st.integers(0, 999)), draw(st.integers(0, 4))
    x = noisy(grid, draw(st.integers(1, 9)), seed) if kind < 4 else torch.zeros(grid.num_tokens, 3)
    if kind == 1:
        x = drifting(grid, x.shape[1], seed)
    if kind == 2:
        x = x[: grid.tokens_per_frame].repeat(grid.frames, 1)
    if kind == 3:
        x = x[:1].repeat(grid.num_tokens, 1)
    return x.to(draw(st.sampled_from(DTYPES))), grid


any_budget = st.one_of(st.floats(0.01, 1.0), st.integers(1, 80))


def promises(build: Callable[[float | int], Method], *, leading: bool = True) -> Callable[[], None]:
    """Return a test that budgets are met exactly, purely and deterministically.

    Args:
        build: makes the method for a budget.
        leading: whether the first token of a group gives it its place.
    """

    @settings(deadline=None, max_examples=60)
    @given(any_video(), any_budget)
    def test(video: Video, keep: float | int) -> None:
        x, grid = video
        before = x.clone()
        method = build(keep)
        assert isinstance(method, Method)
        plan = method.plan(VideoFeatures(x, grid)).check()
        assert plan.num_in == grid.num_tokens
        assert plan.num_out == token_budget(keep, grid.num_tokens)
        assert torch.equal(x, before)
        assert_same(plan, method.plan(VideoFeatures(x.clone(), grid)))
        if leading:
            assert_leading(plan)
        merged = plan.apply(x)
        assert merged.dtype == x.dtype
        assert bool(torch.isfinite(merged).all())
        everything = build(1.0).plan(VideoFeatures(x, grid))
        assert torch.equal(everything.group, torch.arange(grid.num_tokens))
        assert torch.equal(everything.weight, torch.ones(grid.num_tokens))
        assert torch.equal(everything.apply(x), x)

    return test


def assert_same(one: MergePlan, other: MergePlan) -> None:
    """Check that two plans are equal, bit for bit."""
    for name in ("group", "weight", "anchor"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def assert_leading(plan: MergePlan) -> None:
    """Check that every anchor is the first token of its group."""
    token = torch.arange(plan.num_in)
    first = torch.full((plan.num_out + 1,), plan.num_in)
    first = first.scatter_reduce(0, plan.group + 1, token, "amin")[1:]
    assert torch.equal(first, plan.anchor)


def groups(plan: MergePlan) -> list[list[int]]:
    """Return the tokens of every output token."""
    return [(plan.group == m).nonzero().squeeze(1).tolist() for m in range(plan.num_out)]


def every_count(
    build: Callable[[float | int], Method],
    x: torch.Tensor,
    grid: VideoGrid,
    *,
    leading: bool = True,
) -> None:
    """Check every count from 1 to N."""
    for count in range(1, grid.num_tokens + 1):
        plan = build(count).plan(VideoFeatures(x, grid)).check()
        assert plan.num_out == count
        if leading:
            assert_leading(plan)


def gpu_agrees(method: Method, grid: VideoGrid, channels: int = 64) -> None:
    """Check that the GPU decides as the CPU does, on data without near ties."""
    x = drifting(grid, channels)
    cpu, gpu = method.plan(VideoFeatures(x, grid)), method.plan(VideoFeatures(x.cuda(), grid))
    assert gpu.group.is_cuda
    assert torch.equal(cpu.group, gpu.group.cpu())
    torch.testing.assert_close(cpu.weight, gpu.weight.cpu())


def scaled_alike(method: Method, grid: VideoGrid) -> None:
    """Check that features of extreme size give the plan of ordinary ones, where scale is moot."""
    x = drifting(grid)
    for scale in (2.0**-50, 2.0**50):
        assert_same(
            method.plan(VideoFeatures(x * scale, grid)), method.plan(VideoFeatures(x, grid))
        )


def survives_extremes(method: Method, grid: VideoGrid) -> None:
    """Check that features near the limits of their dtype are planned."""
    x = drifting(grid)
    for extreme in (x / x.abs().max() * 3e38, x.double() * 1e140, x * 1e-38, x.half() * 1e-6):
        method.plan(VideoFeatures(extreme, grid)).check()
