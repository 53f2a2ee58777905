import math

import pytest
import torch

from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures, get_method
from sttm.ops.naive_field import cosine, mean
from sttm.ops.reconstruction import coverage, rebuild, reconstruction_error
from sttm.plan import MergePlan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_hand(dtype: torch.dtype) -> None:
    grid = VideoGrid(4, 3, 3)
    x = torch.randn(36, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    plan = get_method("tome", keep=0.4).plan(VideoFeatures(x, grid))
    rows = x.double().tolist()
    groups = [[i for i in range(36) if int(plan.group[i]) == m] for m in range(plan.num_out)]
    stands = {i: mean([rows[j] for j in group]) for group in groups for i in group}
    lost = sum((a - b) ** 2 for i in range(36) for a, b in zip(rows[i], stands[i], strict=True))
    wanted = math.sqrt(lost / sum(a * a for row in rows for a in row))
    rebuilt = rebuild(x, plan)
    assert reconstruction_error(x, rebuilt) == pytest.approx(wanted, rel=1e-5)
    share = sum(cosine(rows[i], stands[i]) >= 0.9 for i in range(36)) / 36
    assert 0 < share < 1
    assert coverage(x, rebuilt) == pytest.approx(share)


def test_a_dropped_token_is_stood_for_by_the_most_similar_one() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 2.0], [3.0, 0.1]])
    rebuilt = rebuild(x, MergePlan.keep(torch.tensor([0, 1]), 4))
    assert torch.equal(rebuilt, x[[0, 1, 1, 0]])
    assert coverage(x, rebuilt) == 1.0
    assert coverage(x, rebuilt, 0.9999) == 0.5


def test_all_tokens_lose_nothing() -> None:
    x = torch.randn(6, 3)
    x[2] = 0
    rebuilt = rebuild(x, MergePlan.identity(6))
    assert reconstruction_error(x, rebuilt) == 0.0
    assert coverage(x, rebuilt, 1.0) == 1.0
    assert reconstruction_error(torch.zeros(6, 3), torch.zeros(6, 3)) == 0.0
