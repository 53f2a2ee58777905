"""Checkpoints for the engines; everything here is skipped where vLLM is not installed."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

Checkpoint = Callable[[str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs vLLM, and skip it without."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "checkpoint" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vllm)
            if find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip("vLLM is not installed: make test-vllm"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return a function that makes a tiny checkpoint, once."""
    from .checkpoints import make

    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: str(make(name, folder / name)))
