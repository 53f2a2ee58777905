from pathlib import Path

import pytest

from sttm import checkpoints

from .original import Original, write_original


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A checkpoint with its tower in it."""
    return write_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="session")
def converted(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted: several shards, no newline tokens."""
    out = tmp_path_factory.mktemp("converted") / "out"
    conversion = checkpoints.plan_conversion(str(original.folder))
    checkpoints.convert(conversion, out, shard_bytes=50_000)
    return out
