import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sttm.chat import PrefilledVideo
from sttm.cli import side_by_side
from sttm.cli.demo import FIRST_SEED, TASKS, _three_questions
from sttm.models.cache import ReducedLayer
from sttm.nano.clips import make_clip
from sttm.video import read_video

from .conftest import Run
from .marks import needs_nano

SECONDS = (
    "ttft_full_s",
    "ttft_merged_s",
    "ttft_next_question_s",
    "ttft_next_question_full_s",
    "decode_s",
    "process_s",
    "encode_s",
)


@needs_nano
def test_the_whole_path(run: Run, tmp_path: Path) -> None:
    result = run("demo", "--frames", 8, "--repeats", 2, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["frames"], found["tokens_in"]) == (8, 512)
    assert isinstance(found["tokens_out"], int)
    assert found["retention"] == pytest.approx(found["tokens_out"] / 512, abs=1e-6)
    assert all(isinstance(found[name], float) and found[name] > 0 for name in SECONDS)
    assert len(found["questions"]) == 3
    for question in found["questions"]:
        assert set(question) == {"question", "expected", "answer_full", "answer_merged"}
        assert all(isinstance(text, str) for text in question.values())
    assert set(found["versions"]) == {"sttm", "python", "torch", "transformers"}
    assert found["clip_seed"] == FIRST_SEED
    assert len(read_video(tmp_path / "out" / "demo.mp4", fps=1)) == 8
    assert Image.open(tmp_path / "out" / "demo.png").width > 400


@needs_nano
def test_the_table(run: Run, tmp_path: Path) -> None:
    shown = run("demo", "--frames", 4, "--repeats", 1, "--seed", 1, "--out", tmp_path).stdout
    for part in ("video tokens", "TTFT, next question", "expected", "vision tower", "nano is tiny"):
        assert part in shown


@needs_nano
def test_the_counts(run: Run, tmp_path: Path) -> None:
    demo = ("demo", "--frames", 4, "--repeats", 1, "--out", tmp_path, "--json")
    found = json.loads(run(*demo).stdout)
    assert found["miscounted"] == ""
    assert found["fed_full"] == found["fed_merged"]
    assert all(8 < fed < 40 for fed in found["fed_merged"])
    merged, full = set(found["entries_merged"]), set(found["entries_full"])
    assert full.pop() - merged.pop() == found["tokens_in"] - found["tokens_out"]
    assert not (full | merged)
    assert found["tested"][0] == "5.19.0"


@needs_nano
@pytest.mark.parametrize("merges", [True, False])
def test_a_cache_that_holds_something_else_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merges: bool
) -> None:
    """Entries of one kind of run are as many as they must not be."""
    entries = vars(PrefilledVideo)["entries"].fget

    def miscount(video: PrefilledVideo) -> tuple[int | None, ...]:
        wrong = (video.layer is not None) == merges
        held: tuple[int, ...] = entries(video)
        return (*held[:-1], held[-1] + 1) if wrong else held

    monkeypatch.setattr(PrefilledVideo, "entries", property(miscount))
    result = run("demo", "--frames", 4, "--repeats", 1, "--out", tmp_path)
    assert result.exit_code == 1
    assert "do not trust it" in result.stderr
    assert "layer 5 holds" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@needs_nano
def test_questions_that_are_fed_more_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = PrefilledVideo.ask
    monkeypatch.setattr(
        PrefilledVideo,
        "ask",
        lambda *a, **k: replace(ask(*a, **k), prompt_tokens=ask(*a, **k).prompt_tokens + 300),
    )
    result = run("demo", "--frames", 4, "--repeats", 1, "--out", tmp_path)
    assert result.exit_code == 1
    assert "tokens were fed for 'What digit" in result.stderr


@needs_nano
def test_hooks_that_do_not_fit_the_library_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReducedLayer, "get_seq_length", ReducedLayer.num_entries)
    result = run("demo", "--frames", 4, "--repeats", 1, "--out", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.strip().startswith("error: got a cache whose layer")
    assert len(result.stderr.strip().splitlines()) == 1


@needs_nano
def test_times_the_wrong_way_round_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(runs: Any) -> Any:
        found = with_medians(runs)
        return found if found.watched.layer is None else replace(found, first=9.0, following=1e-3)

    with_medians = side_by_side._with_medians
    monkeypatch.setattr(side_by_side, "_with_medians", slow)
    result = run("demo", "--frames", 4, "--repeats", 1, "--out", tmp_path)
    assert result.exit_code == 0
    told = "This time the merged prefill took longer than with all tokens. The counts above are"
    assert told in result.stdout


@pytest.mark.parametrize("seed", range(12))
def test_the_three_questions_do_not_answer_each_other(seed: int) -> None:
    clip = make_clip(FIRST_SEED + seed, 8)
    questions = _three_questions(clip)
    assert tuple(question.task for question in questions) == TASKS
    if len(clip.needles) == 1:
        texts = " ".join(question.text for question in questions)
        assert str(clip.needles[0].digit) not in texts
        assert clip.needles[0].colour not in texts


def test_nothing_to_compare(run: Run) -> None:
    result = run("demo", "--keep", "1")
    assert result.exit_code == 2
    assert "compares with all tokens anyway" in result.stderr


def test_too_many_frames(run: Run) -> None:
    assert run("demo", "--frames", "500").exit_code == 2
