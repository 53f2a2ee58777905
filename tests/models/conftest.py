"""Fixtures of the tests of the hook layer."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """Run without autograd."""
    with torch.no_grad():
        yield
