import json
from pathlib import Path

import pytest

from .conftest import Run
from .marks import needs_nano

FEW = ("--methods", "sttm", "random", "--keep", "0.3", "0.1", "--max-frames", 4)


@needs_nano
def test_a_comparison_is_written_and_goes_on(run: Run, clip: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.mp4"
    done = run("compare", clip, *FEW, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    written = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert written["recommendation"]["text"] == found["recommendation"]["text"]
    assert [r["kinds"].keys() for r in written["rows"]] == [
        r["kinds"].keys() for r in found["rows"]
    ]
    assert list(written["videos"]) == found["videos"]
    assert found["videos"][0].startswith("clip.mp4 ")
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    tokens = {(r["method"], r["keep"]): r["tokens_out"] for r in found["rows"]}
    assert tokens == {
        ("all", 1.0): 256,
        ("sttm", 0.3): 76,
        ("sttm", 0.1): 25,
        ("random", 0.3): 76,
        ("random", 0.1): 25,
    }
    assert found["recommendation"]["method"] == "sttm"
    other.write_bytes(clip.read_bytes() + b"\0")
    more = run("compare", clip, other, *FEW, "--out", out)
    assert more.exit_code == 0, more.stderr
    assert "got 1 videos from compare.json" in more.stderr
    assert "2 videos, 16 answers" in more.stdout
    assert found["recommendation"]["text"][0].split(" (")[0] in more.stdout
    again = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    (first,) = found["videos"]
    assert again["videos"][first] == written["videos"][first]
    refused = run("compare", clip, *FEW[:-1], 2, "--out", out)
    assert refused.exit_code == 2
    assert "a comparison with another max_frames" in refused.stderr


@needs_nano
def test_questions_of_ones_own_and_a_bad_video(run: Run, clip: Path, tmp_path: Path) -> None:
    bad, asked = tmp_path / "bad.mp4", tmp_path / "questions.txt"
    bad.write_text("this is no video")
    asked.write_text("colour: What colour is the digit?\n", encoding="utf-8")
    given = (*FEW, "--questions", asked, "--json")
    done = run("compare", clip, bad, *given, "--on-error", "skip")
    assert done.exit_code == 0, done.stderr
    assert "skipped" in done.stderr
    assert "bad.mp4" in done.stderr
    assert list(json.loads(done.stdout)["rows"][1]["kinds"]) == ["colour"]
    assert run("compare", bad, clip, *given).exit_code == 2
    alone = run("compare", bad, *given, "--on-error", "skip")
    assert alone.exit_code == 2
    assert "bad.mp4" in alone.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--methods", "fastv"), "whose plan depends on the question"),
        (("--methods", "sttmm"), "Did you mean 'sttm'"),
        (("--keep", "lots"), "a share such as 0.3"),
        (("--keep", "1"), "below"),
        (("--questions", "nowhere.txt"), "nowhere.txt, which cannot be read"),
        (("--fps", "0"), "fps"),
        (("--device-map", "cpu"), "--device-map"),
        (("--out", "/dev/null"), "--out: got"),
    ],
)
def test_bad_options_show_before_anything_is_loaded(
    run: Run, clip: Path, options: tuple[str, ...], told: str
) -> None:
    result = run("compare", clip, *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "nano answers" not in result.stderr


def test_a_video_that_is_not_there(run: Run, tmp_path: Path) -> None:
    result = run("compare", tmp_path / "none.mp4")
    assert result.exit_code == 2
    assert "none.mp4: cannot be read" in result.stderr
    assert "nano answers" not in result.stderr
