import json
from pathlib import Path

import pytest

from .conftest import Run
from .marks import needs_nano

SMALL = ("--methods", "sttm", "random", "--keep", "1", "0.2", "--samples=2", "--kinds", "cut")


@needs_nano
def test_needle_says_what_to_use_now_and_does_it(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "new"
    few = ("--frames", 4, 5, "--seed", 3)
    result = run("bench", "needle", *SMALL, *few, "--against", "sttm", "-o", out, "--json")
    assert result.exit_code == 0, result.stderr
    scenes = "frames=4,5 count=2 kinds=cut seed=50000003"
    told = "sttm eval run --task needle --method sttm random --keep 1 0.2 --max-new-tokens 6 --out "
    assert f"it is now: {told}{out} --json --scenes {scenes} && sttm eval report {out}" in (
        result.stderr.replace("\n", " ")
    )
    found = json.loads(result.stdout)
    assert {(row["method"], row["frames"]) for row in found["runs"]} == {
        (method, frames) for method in ("all", "sttm", "random") for frames in (4, 5)
    }
    pairs = {(one["first"], one["second"]) for one in found["comparisons"]}
    assert pairs == {(f"{n}-frames/random-0.2", f"{n}-frames/sttm-0.2") for n in (4, 5)}
    assert {row["part"] for row in found["parts"]} == {"cut"}
    assert (out / "5-frames" / "random-0.2" / "answers.jsonl").is_file()
    assert (out / "report.md").is_file()

    # Nothing that changes what an answer means can be mixed in.
    other = run("bench", "needle", *SMALL, *few, "--layer", 1, "--out", out)
    assert other.exit_code == 2
    assert "layer 0 (now 1)" in other.stderr
    relabelled = ("--methods", "sttm=sttm:root_level=0", "--keep", "0.2", "--samples", 2)
    other = run("bench", "needle", *relabelled, *few, "--kinds", "cut", "--out", out)
    assert other.exit_code == 2
    assert "cannot be mixed" in other.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--methods", "stmt"), "Did you mean 'sttm'"),
        (("--keep", "lots"), "a share such as 0.3"),
        (("--keep", "0.3", "0.3"), "twice"),
        (("--kinds", "static", "moving"), "kinds"),
        (("--frames", "8", "8"), "frames"),
        (("--sample", "8"), "No such option: --sample"),
    ],
)
def test_bad_needle_options(run: Run, tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    result = run("bench", "needle", *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_speed(run: Run, tmp_path: Path) -> None:
    given = ("--methods", "sttm", "random", "--keep", "0.3", "--frames", 4, "--repeats", 1)
    result = run("bench", "speed", "--shape", "nano", *given, "--out", tmp_path / "new", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [row["method"] for row in found["rows"]] == ["all", "sttm", "random"]
    assert [row["tokens_out"] for row in found["rows"]] == [256, 76, 76]
    assert found["settings"]["vision_tower_timed"] is True
    assert json.loads((tmp_path / "new" / "speed.json").read_text())["rows"] == found["rows"]
    assert "stages of their own. Medians" in (tmp_path / "new" / "speed.md").read_text()
    assert (tmp_path / "new" / "speed-4.png").read_bytes().startswith(b"\x89PNG")
    again = run("bench", "speed", "--shape", "nano", *given, "--out", tmp_path / "new", "--json")
    assert json.loads(again.stdout)["rows"] == found["rows"]


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
