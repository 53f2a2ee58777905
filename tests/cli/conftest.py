from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sttm.cli import app
from sttm.nano.clips import make_clip, write_clip

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line; stdout and stderr apart, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runner = CliRunner()

    def invoke(*arguments: object) -> Result:
        return runner.invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames, one per second."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(make_clip(50_000_000, 8), path)
    return path
