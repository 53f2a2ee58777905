import json
from pathlib import Path

import pytest
from PIL import Image

from sttm.cli.demo import FIRST_SEED, TASKS, _three_questions
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
