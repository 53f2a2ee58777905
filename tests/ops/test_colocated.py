import pytest
import torch

from sttm.ops import colocated, naive_field
from sttm.ops.colocated import colocated_cosines


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_cosines_equal_their_twin(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[6] = 0.0
    one, other = torch.tensor([1, 3, 2, 4]), torch.tensor([0, 0, 2, 3])
    fast = colocated_cosines(x, 5, one, other)
    frames = naive_field.video(x, 5)
    slow = [
        [naive_field.cosine(a, b) for a, b in zip(frames[i], frames[j], strict=True)]
        for i, j in zip(one.tolist(), other.tolist(), strict=True)
    ]
    torch.testing.assert_close(fast, torch.tensor(slow), atol=1e-6, rtol=0)
    monkeypatch.setattr(colocated, "piece_rows", lambda *_: 3)
    assert torch.equal(fast, colocated_cosines(x, 5, one, other))


def test_no_pairs_give_no_cosines() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert colocated_cosines(torch.ones(4, 2), 1, none, none).shape == (0, 4)
