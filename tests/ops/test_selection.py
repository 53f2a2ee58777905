import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.ops import naive_field
from sttm.ops.selection import (
    apportion,
    descending_rank,
    evenly_spaced,
    stable_topk,
    stable_topk_per_row,
)

# Few values, so that most scores have equals.
scores = st.lists(st.sampled_from([-float("inf"), -1.0, -0.0, 0.0, 0.5, 2.0]), min_size=1)


@settings(deadline=None)
@given(scores, st.data())
def test_the_most_are_chosen_by_score_then_by_index(
    values: list[float], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(values)))
    chosen = stable_topk(torch.tensor(values), count)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == naive_field.best(values, count)
    rows = stable_topk_per_row(torch.tensor([values, values[::-1]]), torch.tensor([count, 1]))
    assert rows[0].nonzero().squeeze(1).tolist() == naive_field.best(values, count)
    assert rows[1].nonzero().squeeze(1).tolist() == naive_field.best(values[::-1], 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_chooses_alike() -> None:
    score = torch.randint(-3, 3, (5000,), generator=torch.Generator().manual_seed(0)).float()
    score = score * torch.tensor([1.0, -0.0]).repeat(2500)
    for count in (1, 100, 2600, 4999):
        assert torch.equal(stable_topk(score, count), stable_topk(score.cuda(), count).cpu())
    assert torch.equal(descending_rank(score), descending_rank(score.cuda()).cpu())


def test_ranks_are_permutations() -> None:
    rank = descending_rank(torch.tensor([[1.0, 3.0, 3.0], [0.0, -0.0, -2.0]]))
    assert rank.tolist() == [[2, 0, 1], [0, 1, 2]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 9.0), st.integers(0, 9)), min_size=1), st.data())
def test_shares_add_up_within_their_limits(
    parts: list[tuple[float, int]], data: st.DataObject
) -> None:
    limit = torch.tensor([limit for _, limit in parts])
    weight = torch.tensor([weight for weight, _ in parts])
    total = data.draw(st.integers(0, int(limit.sum())))
    given_ = apportion(weight, total, limit)
    assert int(given_.sum()) == total
    assert bool(((given_ >= 0) & (given_ <= limit)).all())


def test_apportioning_follows_the_largest_remainders() -> None:
    many = torch.tensor([100, 100, 100])
    assert apportion(torch.tensor([1.0, 2.0, 4.0]), 10, many).tolist() == [1, 3, 6]
    assert apportion(torch.ones(3), 4, many).tolist() == [2, 1, 1]
    few = torch.tensor([9, 9, 4])
    assert apportion(torch.tensor([1.0, 1.0, 8.0]), 10, few).tolist() == [3, 3, 4]
    few = torch.tensor([9, 9, 2])
    assert apportion(torch.tensor([0.0, 0.0, 1.0]), 5, few).tolist() == [2, 1, 2]


def test_places_are_the_middles_of_equal_spans() -> None:
    assert evenly_spaced(3, 9).tolist() == [1, 4, 7]
    assert evenly_spaced(0, 9).tolist() == []
    assert evenly_spaced(9, 9).tolist() == [*range(9)]
    for n in range(1, 30):
        for count in range(1, n + 1):
            assert len({*evenly_spaced(count, n).tolist()}) == count
