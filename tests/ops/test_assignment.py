"""Assignment to the most similar target, and small splits."""

import pytest
import torch

from sttm.ops.assignment import even_counts, most_similar, part_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_loops(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x, targets = torch.randn(23, 7, generator=g).to(dtype), torch.randn(5, 7, generator=g).to(dtype)
    cosine = torch.cosine_similarity(x.double()[:, None], targets.double(), dim=-1)
    assert most_similar(x, targets).tolist() == cosine.argmax(1).tolist()


def test_equal_targets_and_zero_vectors_go_to_the_first() -> None:
    targets = torch.tensor([[0.0, 1], [1, 2], [0.1, 0.2], [3, 6]])
    assert most_similar(torch.tensor([[2.0, 4], [0, 0], [0, 7]]), targets).tolist() == [1, 0, 0]
    assert most_similar(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]


def test_large_and_small_features() -> None:
    x = torch.tensor([[1e30, 0.0], [0, 1e-30]])
    assert most_similar(x, torch.tensor([[0.0, 1e38], [1e-38, 0]])).tolist() == [1, 0]


def test_even_counts_and_parts() -> None:
    assert even_counts(0, 3).tolist() == [0, 0, 0]
    assert even_counts(7, 3).tolist() == [2, 3, 2]
    assert even_counts(2, 8).tolist() == [0, 0, 1, 0, 0, 0, 1, 0]
    assert (part_of(100, 0.29), part_of(5, 0.4), part_of(9, 0.0), part_of(9, 1)) == (29, 2, 0, 9)
