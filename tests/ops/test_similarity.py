import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.ops import naive, similarity
from sttm.ops.similarity import cosines, needs_rescaling, paired_products, products, rescaled


@settings(deadline=None)
@given(st.sampled_from([1, 2, 3]), st.integers(1, 4), st.integers(0, 99))
def test_cosines_equal_their_twin(heads: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 5, heads * width, generator=generator)
    a[0] = 0.0
    fast = cosines(products(a, b, heads), products(a, a, heads), products(b, b, heads))
    slow = [naive.cosine(x.double(), y.double(), heads) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(fast.double(), torch.tensor(slow).double(), atol=1e-6, rtol=0)
    assert fast[0] == 0.0


@settings(deadline=None)
@given(st.integers(1, 300), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_a_vector_is_exactly_like_itself(width: int, dtype: torch.dtype) -> None:
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    square = products(x, x, 1)
    assert cosines(products(x, x.clone(), 1), square, square).tolist() == [1.0] * 4


def test_pairs_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    rows_a, rows_b = torch.tensor([0, 3, 9, 9, 1]), torch.tensor([5, 5, 0, 9, 2])
    monkeypatch.setattr(similarity, "_CPU_PIECE", 8)
    pieces = paired_products(x, rows_a, x.half(), rows_b, 2)
    whole = products(x[rows_a], x.half()[rows_b], 2)
    assert torch.equal(pieces, whole)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, False), (1e12, True), (1e-12, True)])
def test_only_extreme_features_are_rescaled(scale: float, expected: bool) -> None:
    x = torch.tensor([[3.0, -4.0], [1.0, 0.0]]) * scale
    assert needs_rescaling(products(x, x, 1)) is expected
    torch.testing.assert_close(rescaled(x), torch.tensor([[0.75, -1.0], [0.25, 0.0]]))


def test_zeros_need_no_rescaling() -> None:
    assert not needs_rescaling(torch.zeros(3, 1))
