import json
from pathlib import Path

import pytest

from .conftest import Run
from .marks import needs_nano


@needs_nano
def test_needle_says_what_to_use_now_and_does_it(run: Run, tmp_path: Path) -> None:
    given = ("--methods", "sttm", "--keep", "1", "0.2", "--frames", 4, "--samples", 2)
    result = run("bench", "needle", *given, "--max-new-tokens", 4, "--out", tmp_path / "new")
    assert result.exit_code == 0, result.stderr
    now = "eval run --task needle --method sttm --keep 1 0.2 --max-new-tokens 4"
    assert f"it is now: sttm {now} --out" in result.stderr
    assert "--scenes frames=4 count=2" in result.stderr
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"all", "sttm-0.2"}
    again = run("bench", "needle", *given, "--max-new-tokens", 5, "--out", tmp_path / "new")
    assert again.exit_code == 2
    assert "cannot be mixed" in again.stderr


@pytest.mark.parametrize("options", [("--against", "sttm"), ("--frames", 4, 8), ("--kinds", "cut")])
def test_needle_options_that_are_gone(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run("bench", "needle", *options, "--out", tmp_path / "new")
    assert result.exit_code == 2
    assert "eval report --against LABEL" in result.stderr
    assert not (tmp_path / "new").exists()


def test_speed(run: Run, tmp_path: Path) -> None:
    given = ("--methods", "sttm", "random", "--keep", "0.3", "--frames", 4, "--repeats", 1)
    result = run("bench", "speed", "--shape", "nano", *given, "--out", tmp_path / "new", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["method"] for row in found["rows"]] == ["all", "sttm", "random"]
    assert [row["tokens_out"] for row in found["rows"]] == [256, 76, 76]
    assert found["settings"]["vision_tower_timed"] is False
    assert json.loads((tmp_path / "new" / "speed.json").read_text())["rows"] == found["rows"]
    assert "the vision tower is left out" in (tmp_path / "new" / "speed.md").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--shape", "llava-onevision-05b"), "Did you mean 'llava-onevision-0.5b'"),
        (("--methods", "stmt"), "Did you mean 'sttm'"),
        (("--keep", "0"), "keep"),
        (("--keep", ".5", ".5"), "keep: got 0.5 twice"),
        (("--frames", "4", "4"), "frames: got 4, 4"),
        (("--layer", "99"), "layer"),
        (("--device", "bogus"), "expected cpu, cuda"),
        (("--shape", "llava-video-72b", "--frames", "4096"), "GiB that are free"),
    ],
)
def test_bad_speed_options(run: Run, tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    result = run("bench", "speed", *options, "--out", tmp_path)
    assert result.exit_code == 2
    assert told in result.stderr
