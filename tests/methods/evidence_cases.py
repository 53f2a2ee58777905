"""Videos with evidence, checks that every method has to pass, and helpers of the slow twins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from sttm.budget import token_budget
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures, get_method
from sttm.ops.selection import apportion
from sttm.plan import MergePlan

GRIDS = (VideoGrid(1, 1, 1), VideoGrid(1, 3, 4), VideoGrid(5, 1, 1), VideoGrid(9, 3, 2))
BUDGETS: tuple[float | int, ...] = (1, 2, 7, 0.1, 0.3, 0.55, 0.9, 1.0, 10**6)


@dataclass(frozen=True)
class Case:
    """A video; ``still`` ones repeat most of the frame before."""

    video: VideoFeatures

    @property
    def x(self) -> torch.Tensor:
        return self.video.x

    @property
    def grid(self) -> VideoGrid:
        return self.video.grid

    @property
    def tower(self) -> list[float]:
        return list(self.video.attention("tower_attention").tolist())

    @property
    def prompt(self) -> list[float]:
        return list(self.video.attention("prompt_attention").tolist())


def make_case(grid: VideoGrid, seed: int = 0, channels: int = 6, still: bool = True) -> Case:
    """Random features; with ``still`` places move little from frame to frame, with one cut."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(grid.frames, grid.tokens_per_frame, channels, generator=g)
    if still:
        for t in range(1, grid.frames):
            if t != grid.frames // 2:
                moves = torch.rand(grid.tokens_per_frame, 1, generator=g)
                x[t] = x[t - 1] + moves * 0.8 * x[t]
    tower = torch.rand(grid.frames, grid.tokens_per_frame, generator=g)
    tower = tower / tower.sum(1, keepdim=True)
    prompt = torch.rand(grid.num_tokens, generator=g) / 50
    return Case(VideoFeatures(x.flatten(0, 1), grid, tower.flatten(), prompt))


def check_promises(name: str, **options: Any) -> None:
    """Exact counts, valid plans, the same twice, nothing changed at keep=1.0, inputs kept."""
    for seed, grid in enumerate(GRIDS):
        case = make_case(grid, seed)
        before = case.x.clone()
        for keep in BUDGETS:
            method: Any = get_method(name, keep=keep, **options)
            plan = method.plan(case.video).check()
            assert plan.num_out == token_budget(keep, grid.num_tokens), (grid, keep)
            again = method.plan(replace(case.video, x=case.x.double()))
            assert torch.equal(plan.group, again.group)
            assert torch.equal(plan.anchor, again.anchor)
            if plan.num_out == grid.num_tokens:
                assert torch.equal(plan.apply(case.x), case.x)
        assert torch.equal(case.x, before)


def check_ties(name: str, **options: Any) -> None:
    """A video of equal tokens and equal attention."""
    grid = VideoGrid(4, 2, 3)
    x = torch.ones(24, 5)
    video = VideoFeatures(x, grid, torch.full((24,), 1 / 6), torch.full((24,), 0.01))
    for keep in (1, 3, 7, 11, 23):
        method: Any = get_method(name, keep=keep, **options)
        plan = method.plan(video).check()
        assert plan.num_out == keep
        torch.testing.assert_close(plan.apply(x), torch.ones(keep, 5))


def check_refusals(name: str, need: str, bad: Sequence[dict[str, Any]]) -> None:
    """Missing, misshapen and negative evidence, and bad options, are refused in words."""
    case = make_case(VideoGrid(3, 2, 2))
    method: Any = get_method(name, keep=0.5)
    assert method.requires == {need}
    with pytest.raises(ConfigError, match=need):
        method.plan(VideoFeatures(case.x, case.grid))
    for value in (torch.ones(11), torch.full((12,), -1.0), torch.full((12,), torch.nan)):
        changed: Any = {need: value}
        with pytest.raises(ConfigError, match=need):
            method.plan(replace(case.video, **changed))
    with pytest.raises(ConfigError, match="shape"):
        method.plan(replace(case.video, x=case.x[1:]))
    for options in ({"keep": 0.0}, *({"keep": 0.5, **more} for more in bad)):
        with pytest.raises(ConfigError):
            get_method(name, **options)


def groups_of(plan: MergePlan) -> dict[int, dict[int, float]]:
    """Write a plan as ``{anchor: {token: weight}}``."""
    written: dict[int, dict[int, float]] = {int(a): {} for a in plan.anchor}
    for token, (group, weight) in enumerate(zip(plan.group.tolist(), plan.weight.tolist())):
        if group >= 0:
            written[int(plan.anchor[group])][token] = weight
    return written


def assert_groups(plan: MergePlan, wanted: dict[int, dict[int, float]]) -> None:
    """Compare a plan with a slow twin's answer."""
    got = groups_of(plan)
    assert sorted(got) == sorted(wanted)
    for anchor, members in wanted.items():
        assert got[anchor] == pytest.approx(members, abs=1e-5), anchor


def mean_groups(groups: dict[int, list[int]]) -> dict[int, dict[int, float]]:
    """Give every member of a group the same weight."""
    return {a: {m: 1 / len(members) for m in members} for a, members in groups.items()}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine in float64."""
    a, b = a.double(), b.double()
    return float(a @ b / (a.norm() * b.norm()))


def best(scores: Sequence[float], count: int) -> list[int]:
    """Places of the largest scores, ascending; the first of equal ones."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[:count])


def even(count: int, n: int) -> list[int]:
    """Evenly spaced places: the middles of equal spans."""
    return [int((i + 0.5) * n / count) for i in range(count)]


def even_split(total: int, parts: int) -> list[int]:
    """Equal counts; what is left goes to evenly spaced parts."""
    counts = [total // parts] * parts
    for place in even(total % parts, parts):
        counts[place] += 1
    return counts


def proportional(sizes: Sequence[int], total: int) -> list[int]:
    """Split in proportion to the sizes; by the library, which rounds remainders in its own way."""
    parts = torch.tensor(sizes)
    return list(apportion(parts, total, torch.full_like(parts, total)).tolist())


def peaks(points: torch.Tensor, neighbours: int, count: int) -> list[int]:
    """Density peaks (DPC-KNN), in loops: places of the centres.

    A density is measured on ``neighbours`` points, the point itself, at no distance, included.
    """
    wide, n = points.double(), len(points)
    far = [[float((a - b).square().sum()) / points.shape[1] for b in wide] for a in wide]
    used = min(neighbours, n)
    density = [-sum(sorted(row)[1:used]) / used for row in far]
    score = []
    for i in range(n):
        first = [j < i and far[i][j] == 0 for j in range(n)]  # of equal points
        denser = [far[i][j] for j in range(n) if density[j] > density[i] or first[j]]
        nearest = min(denser or [max(map(max, far))])
        score.append(density[i] + 0.5 * torch.tensor(nearest).log().item())
    return best(score, count)
