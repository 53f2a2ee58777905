import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.ops import naive
from sttm.plan import MergePlan


@st.composite
def plans(draw: st.DrawFn, num_in: int | None = None) -> MergePlan:
    """Draw a plan with dropped tokens, uneven shares and zero shares."""
    size = draw(st.integers(1, 12)) if num_in is None else num_in
    labels = draw(st.lists(st.integers(-1, 5), min_size=size, max_size=size))
    labels[draw(st.integers(0, size - 1))] = 0
    order = sorted({label for label in labels if label >= 0}, key=labels.index)
    group = torch.tensor([order.index(label) if label >= 0 else -1 for label in labels])
    anchor = torch.tensor([labels.index(label) for label in order])
    share = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    share[anchor] += 1
    return MergePlan.from_groups(group, anchor, draw(st.sampled_from([share, None])))


modes: tuple[Literal["float32", "input"], ...] = ("float32", "input")


def example() -> MergePlan:
    return MergePlan.from_groups(torch.tensor([0, 1, 0, -1, 1, 1]), torch.tensor([0, 1]))


@settings(deadline=None)
@given(plans())
def test_drawn_plans_keep_their_promises(plan: MergePlan) -> None:
    plan.check()
    assert int(plan.sizes.sum()) == int((plan.group >= 0).sum())


@settings(deadline=None)
@given(plans(), st.integers(0, 99), st.sampled_from([torch.float32, torch.float64]))
def test_apply_equals_its_twin(plan: MergePlan, seed: int, dtype: torch.dtype) -> None:
    x = torch.randn(plan.num_in, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    before = x.clone()
    slow = naive.weighted_sum(x, plan.group, plan.weight, plan.num_out)
    fast = plan.apply(x)
    assert fast.dtype == dtype
    torch.testing.assert_close(fast.double(), slow, atol=1e-6, rtol=0)
    assert torch.equal(x, before)


@settings(deadline=None)
@given(plans(), st.data(), st.integers(0, 99))
def test_composing_is_applying_one_after_the_other(
    first: MergePlan, data: st.DataObject, seed: int
) -> None:
    then = data.draw(plans(num_in=first.num_out))
    both = first.compose(then).check()
    x = torch.randn(first.num_in, 2, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(both.apply(x), then.apply(first.apply(x)), atol=1e-6, rtol=0)
    ids = torch.arange(first.num_in)
    assert torch.equal(both.gather(ids), then.gather(first.gather(ids)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(600, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    plan = MergePlan.from_groups(torch.zeros(600, dtype=torch.int64), torch.tensor([0]))
    merged = plan.apply(x)
    assert merged.dtype == dtype
    assert torch.equal(merged, x.double().mean(dim=0, keepdim=True).float().to(dtype))


def test_published_sums_round_shares_to_the_dtype_of_the_input() -> None:
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    group, weight = torch.zeros(300, dtype=torch.int64), torch.full((300,), 1 / 300)
    exact, rounded = (
        MergePlan(group, weight, torch.tensor([0]), accumulate=mode).apply(x) for mode in modes
    )
    assert rounded.dtype == torch.bfloat16
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.01, rtol=0.02)


@pytest.mark.parametrize("mode", modes)
def test_dropped_tokens_are_never_read(mode: Literal["float32", "input"]) -> None:
    x = torch.arange(6.0)[:, None].repeat(1, 2)
    x[3] = torch.nan
    plan = example()
    merged = MergePlan(plan.group, plan.weight, plan.anchor, accumulate=mode).apply(x)
    torch.testing.assert_close(merged[:, 0], torch.tensor([1.0, 10 / 3]))


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 0), (6, 2, 3), (6, 2, 1, 4)])
def test_apply_takes_any_rank(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    merged = example().apply(x)
    assert merged.shape == (2, *shape[1:])
    torch.testing.assert_close(merged[0], (x[0] + x[2]) / 2)


def test_apply_reads_transposed_features() -> None:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).T
    assert torch.equal(example().apply(x), example().apply(x.contiguous()))


def test_wide_half_precision_rows_are_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(6, 37, generator=torch.Generator().manual_seed(1)).bfloat16()
    whole = example().apply(x)
    monkeypatch.setattr("sttm.plan._PIECE", 60)
    assert torch.equal(example().apply(x), whole)


def test_apply_is_differentiable() -> None:
    x = torch.ones(6, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(example().apply(x).sum(), x)
    torch.testing.assert_close(gradient[:, 0], example().weight)


def test_gather_picks_anchors_along_any_axis() -> None:
    ids = torch.arange(12).reshape(2, 6)
    assert example().gather(ids, dim=1).tolist() == [[0, 1], [6, 7]]
    assert example().gather(ids, dim=-1).tolist() == [[0, 1], [6, 7]]


def test_the_identity_changes_nothing() -> None:
    plan = MergePlan.identity(5).check()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(plan.apply(x), x)
    assert (plan.num_in, plan.num_out, plan.retention) == (5, 5, 1.0)
    assert plan.sizes.tolist() == [1] * 5


def test_composing_keeps_what_the_first_plan_said() -> None:
    first = MergePlan.identity(4)
    told = MergePlan(first.group, first.weight, first.anchor, {"by": "first"})
    both = told.compose(MergePlan(first.group, first.weight, first.anchor, {"by": "then"}))
    assert both.info == {"by": "then", "before": {"by": "first"}}


def test_another_device_gets_the_tensors_of_info_too() -> None:
    plan = MergePlan.identity(4)
    told = MergePlan(plan.group, plan.weight, plan.anchor, {"boxes": torch.ones(2), "links": 3})
    moved = told.to("meta")
    assert moved.group.device.type == moved.info["boxes"].device.type == "meta"
    assert moved.info["links"] == 3


@pytest.mark.parametrize("shape", [(5, 2), (), (7,)])
def test_the_wrong_number_of_rows_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="6 entries"):
        example().apply(torch.zeros(shape))


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="gather"):
        example().apply(torch.zeros(6, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="6 entries along axis 1"):
        example().gather(torch.zeros(6, 2), dim=1)
    with pytest.raises(ConfigError, match="expected 2"):
        example().compose(MergePlan.identity(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": torch.zeros(3)}, "group"),
        ({"weight": torch.ones(3, dtype=torch.float64)}, "weight"),
        ({"anchor": torch.zeros(1, 1, dtype=torch.int64)}, "anchor"),
        ({"weight": torch.ones(4)}, "4 weights for 3 tokens"),
    ],
)
def test_a_plan_of_wrong_parts_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(MergePlan.identity(3), **change)


@pytest.mark.parametrize(
    ("group", "weight", "anchor", "message"),
    [
        ([0, 2], [1, 1], [0, 1], "group"),
        ([-2, 0], [0, 1], [1], "group"),
        ([0, 1], [1, 1], [1, 0], "ascending"),
        ([0, 1], [1, 1], [0, 0], "ascending"),
        ([0, 0, 1], [0.5, 0.5, 1], [0, 1], "token of group"),
        ([0, 0], [0.5, 0.6], [0], "sum to 1"),
        ([0, 0], [1.5, -0.5], [0], "sum to 1"),
        ([0, -1], [1, 0.5], [0], "sum to 1"),
        ([-1, -1], [0, 0], [], "0 of 2"),
    ],
)
def test_check_finds_broken_promises(
    group: list[int], weight: list[float], anchor: list[int], message: str
) -> None:
    plan = MergePlan(
        torch.tensor(group), torch.tensor(weight).float(), torch.tensor(anchor, dtype=torch.int64)
    )
    with pytest.raises(ConfigError, match=message):
        plan.check()


def promises(group: list[int], anchor: list[int]) -> bool:
    """Say in plain loops whether labels and anchors make a plan."""
    return (
        0 < len(anchor) <= len(group)
        and all(-1 <= label < len(anchor) for label in group)
        and all(0 <= token < len(group) for token in anchor)
        and all(one < other for one, other in pairwise(anchor))
        and all(group[token] == output for output, token in enumerate(anchor))
    )


@settings(max_examples=400, deadline=None)
@given(
    group=st.lists(st.integers(-3, 5), max_size=7),
    anchor=st.lists(st.integers(-2, 8), max_size=6),
    valid=st.booleans(),
)
def test_from_groups_takes_plans_and_nothing_else(
    group: list[int], anchor: list[int], valid: bool
) -> None:
    if valid:  # random labels are rarely sound: mend them
        first = sorted({label: group.index(label) for label in group if label >= 0}.values())
        rank = {group[token]: output for output, token in enumerate(first)}
        group, anchor = [rank.get(label, -1) for label in group], first
    labels = torch.tensor(group, dtype=torch.int64), torch.tensor(anchor, dtype=torch.int64)
    if promises(group, anchor):
        plan = MergePlan.from_groups(*labels).check()
        members = [group.count(label) for label in group]
        wanted = [1 / n if label >= 0 else 0.0 for label, n in zip(group, members, strict=True)]
        assert plan.weight.tolist() == pytest.approx(wanted)
    else:
        with pytest.raises(ConfigError, match="MergePlan"):
            MergePlan.from_groups(*labels)


@pytest.mark.parametrize("weight", [[1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 1.0], [math.nan, 1, 1]])
def test_weights_that_are_none_are_refused(weight: list[float]) -> None:
    group = torch.tensor([0, 0, 1])
    with pytest.raises(ConfigError, match=r"MergePlan\.weight"):
        MergePlan.from_groups(group, torch.tensor([0, 2]), torch.tensor(weight))


@pytest.mark.parametrize("anchor", [[-1, 1], [0, 2], [1, 0], [5, 9]])
def test_anchors_that_are_no_tokens_are_refused(anchor: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"MergePlan\.anchor"):
        MergePlan(torch.tensor([0, 1]), torch.ones(2), torch.tensor(anchor)).check()


def test_groups_follow_their_first_tokens() -> None:
    plan = MergePlan.from_labels(torch.tensor([7, -1, 3, 7, 0, -1, 3]))
    assert plan.group.tolist() == [0, -1, 1, 0, 2, -1, 1]
    assert plan.anchor.tolist() == [0, 2, 4]


@pytest.mark.parametrize("size", [2, 1500, 100_000])
@pytest.mark.parametrize("rest", [0.4, 0.123])
def test_thousands_of_small_shares_sum_to_one(size: int, rest: float) -> None:
    weight = torch.full((size,), rest / size)
    weight[0] += 1.0 - rest
    plan = MergePlan.from_anchors(torch.zeros(size, dtype=torch.int64), weight)
    assert float(plan.weight.double().sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "label", [torch.tensor([0, -2]), torch.tensor([0.0, 1.0]), torch.tensor([[0, 1]]), [0, 1]]
)
def test_labels_that_are_none_are_refused(label: Any) -> None:
    with pytest.raises(ConfigError, match="label"):
        MergePlan.from_labels(label)


def test_no_labels_are_refused_and_large_ones_cost_nothing() -> None:
    with pytest.raises(ConfigError, match="0 of 0 tokens"):
        MergePlan.from_labels(torch.empty(0, dtype=torch.int64))
    assert MergePlan.from_labels(torch.tensor([2**62, 0, 2**62])).group.tolist() == [0, 1, 0]


def test_groups_stand_at_the_token_that_they_name() -> None:
    plan = MergePlan.from_anchors(torch.tensor([2, 1, 2, -1, 1, 5]))
    assert plan.group.tolist() == [1, 0, 1, -1, 0, 2]
    assert plan.anchor.tolist() == [1, 2, 5]


def test_kept_tokens_stand_for_themselves() -> None:
    plan = MergePlan.keep(torch.tensor([1, 4]), 5)
    assert plan.group.tolist() == [-1, 0, -1, -1, 1]
    assert plan.anchor.tolist() == [1, 4]
    assert plan.weight.tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize("label", [[1, 3, 2, 3], [0, 2, 2, 1], [1, 0, 2], [0, -5, 0], [0, 9]])
def test_labels_that_name_no_anchor_are_refused(label: list[int]) -> None:
    with pytest.raises(ConfigError, match="label"):
        MergePlan.from_anchors(torch.tensor(label))


def test_kept_tokens_that_are_none_are_refused() -> None:
    for kept in (torch.tensor([0, 4]), torch.tensor([-1]), torch.tensor([True, False])):
        with pytest.raises(ConfigError, match="kept"):
            MergePlan.keep(kept, 4)
