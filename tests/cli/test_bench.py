import json
from pathlib import Path

import pytest

from .conftest import Run
from .marks import needs_nano

SMALL = ("--methods", "sttm", "random", "--keep", "1", "0.2", "--frames", 4, "--samples", 2)


@needs_nano
def test_needle(run: Run, tmp_path: Path) -> None:
    given = ("bench", "needle", *SMALL, "--against", "sttm", "--out", tmp_path / "new", "--json")
    result = run(*given)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {row["method"] for row in found["rows"]} == {"all", "sttm", "random"}
    overall = [row for row in found["rows"] if row["task"] == "all"]
    assert [row["retention"] for row in overall] == pytest.approx(
        [1.0, 51 / 256, 51 / 256], abs=1e-5
    )
    assert all(0 <= row["accuracy"] <= 1 and row["clips"] == 2 for row in overall)
    assert found["settings"]["layer"] == 0
    assert {d["against"] for d in found["differences"]} == {"all", "sttm"}
    names = {"answers.jsonl", "results.json", "results.csv", "results.md", "accuracy.png"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names

    # Cut off in the middle of a line, it goes on: the same answers, none twice, none lost.
    journal = tmp_path / "new" / "answers.jsonl"
    whole = journal.read_text()
    journal.write_text(whole[: len(whole) * 2 // 3])
    again = run(*given)
    assert "answers already" in again.stderr
    assert sorted(journal.read_text().splitlines()) == sorted(whole.splitlines())
    assert json.loads(again.stdout)["rows"] == found["rows"]

    # Nothing that changes what an answer means can be mixed in.
    other = run("bench", "needle", *SMALL, "--layer", 1, "--out", tmp_path / "new")
    assert other.exit_code == 2
    assert "layer 0 (now 1)" in other.stderr
    relabelled = ("--methods", "sttm=sttm:root_level=0", "--keep", "0.2", "--frames", 4)
    other = run("bench", "needle", *relabelled, "--samples", 2, "--out", tmp_path / "new")
    assert other.exit_code == 2
    assert "another method has this label" in other.stderr


@needs_nano
def test_a_refused_run_does_not_spoil_its_folder(run: Run, tmp_path: Path) -> None:
    given = ("bench", "needle", *SMALL, "--out", tmp_path)
    refused = run(*given, "--positions", "bogus")
    assert refused.exit_code == 2
    assert "bogus" in refused.stderr
    corrected = run(*given)
    assert corrected.exit_code == 0, corrected.stderr


@needs_nano
@pytest.mark.slow
def test_needle_in_two_processes_gives_the_same(run: Run, tmp_path: Path) -> None:
    for processes in (1, 2):
        given = ("--processes", processes, "--out", tmp_path / str(processes))
        result = run("bench", "needle", *SMALL, *given)
        assert result.exit_code == 0, result.stderr
        assert "less all tokens" in result.stdout
    one, two = (
        sorted((tmp_path / name / "answers.jsonl").read_text().splitlines()[1:])
        for name in ("1", "2")
    )
    assert one == two


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--methods", "stmt"), "Did you mean 'sttm'"),
        (("--keep", "0"), "keep"),
        (("--keep", "lots"), "a share such as 0.3"),
        (("--keep", "0.3", "0.3"), "twice"),
        (("--kinds", "static", "moving"), "kinds"),
        (("--against", "tome"), "Expected one of the compared"),
        (("--against", "all", "--keep", ".5"), "Add 1 to them: --keep 1"),
        (("--frames", "8", "8"), "frames"),
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
