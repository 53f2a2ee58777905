"""Runs that go on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sttm.errors import ConfigError, SttmError
from sttm.evaluation import resumable
from sttm.evaluation.evaluate import Job
from sttm.evaluation.executor import Setup
from sttm.evaluation.record import AnswerRecord, failed
from sttm.evaluation.resumable import ResumableRun
from sttm.evaluation.specs import make_settings
from tests.cli.marks import needs_nano

from .small import answer, items, nano, needle_config

pytestmark = needs_nano
ITEMS = items("needle", ["a", "b"], 2, [{}])
SETTINGS = tuple(make_settings(["sttm", "random"], [0.5]))


def answer_all(_: Setup[Job, AnswerRecord], jobs: Sequence[Job]) -> Iterator[AnswerRecord]:
    """Answer A to everything with every setting, without a model."""
    for job in jobs:
        for setting, known in job.known.items():
            for item in job.video.items:
                if item.question_id not in known:
                    yield AnswerRecord(**{**vars(answer(item, "A")), "setting": setting})


def fail_at_b(_: Setup[Job, AnswerRecord], jobs: Sequence[Job]) -> Iterator[AnswerRecord]:
    for found in answer_all(_, jobs):
        item = found.item("needle")
        bad = failed(item, "missing video", "It is gone.", found.setting)
        yield bad if item.video_id == "b" else found


@pytest.fixture
def run(tmp_path: Path) -> ResumableRun:
    folders = {str(setting): tmp_path / setting.label for setting in SETTINGS}
    for folder in folders.values():
        folder.mkdir()
    config = needle_config(settings=SETTINGS)
    return ResumableRun(config, ITEMS, folders, "nano", nano()[0], {})


def test_only_what_is_missing_is_asked(run: ResumableRun) -> None:
    seen: list[tuple[str, int, int]] = []
    notes: list[str] = []
    run.answer(nano, execute=fail_at_b, stop=False, tell=lambda *step: seen.append(step))
    assert seen == [("answer", done, 8) for done in range(9)]
    assert run.summary(SETTINGS[0])["errors"] == {"missing video": 2}
    run.answer(nano, execute=answer_all, note=notes.append)
    assert [text.partition(" has ")[2] for text in notes] == [
        "2 answers already; only others are asked for; 2 with errors are tried again."
    ] * 2
    for setting in SETTINGS:
        summary = run.summary(setting)
        assert (summary["answered"], summary["errors"], summary["frames"]) == (4, {}, 4)


def test_an_error_stops_a_run(run: ResumableRun) -> None:
    with pytest.raises(SttmError, match=r"b-0: missing video: It is gone\. The answers so far"):
        run.answer(nano, execute=fail_at_b)
    assert run.summary(SETTINGS[0])["answered"] == 2


def test_answers_of_another_version_of_the_code_are_refused(
    run: ResumableRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.answer(nano, execute=answer_all)
    before = {folder: (folder / "answers.jsonl").read_bytes() for folder in run.folders.values()}
    monkeypatch.setattr(resumable, "environment", lambda _: {"code": "0", "commit": "c0ffee"})
    with pytest.raises(ConfigError, match=r"another version of the code \(.*, now c0ffee\)"):
        run.answer(nano, execute=answer_all)
    for folder, content in before.items():
        assert (folder / "answers.jsonl").read_bytes() == content
