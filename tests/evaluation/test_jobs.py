from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sttm.errors import ConfigError
from sttm.evaluation.config import by_video
from sttm.evaluation.evaluate import Job, evaluate
from sttm.evaluation.executor import Setup
from sttm.evaluation.record import OUT_OF_REACH, AnswerRecord, failed
from tests.cli.marks import needs_nano

from .small import answer, items, nano, needle_config

VIDEOS = by_video(items("custom", ["a", "b", "c"], 2, [{}]))
SETTING = "sttm 0.5"
ITEMS = [item for video in VIDEOS for item in video.items]


class Recorder:
    """Answers A to everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.jobs: Sequence[Job] = ()

    def __call__(
        self, setup: Setup[Job, AnswerRecord], jobs: Sequence[Job]
    ) -> Iterator[AnswerRecord]:
        self.jobs = jobs
        for job in jobs:
            for item in job.video.items:
                if item.question_id not in job.known[SETTING]:
                    yield answer(item, "A")


def ask(known: dict[str, AnswerRecord], recorder: Recorder) -> list[str]:
    found = evaluate(needle_config(), nano, VIDEOS, {SETTING: known}, execute=recorder)
    return [each.question_id for each in found]


def test_only_what_is_missing_is_asked() -> None:
    known = {item.question_id: answer(item, "B") for item in [*ITEMS[:2], ITEMS[3]]}
    recorder = Recorder()
    assert ask(known, recorder) == ["b-0", "c-0", "c-1"]
    assert [job.video.video_id for job in recorder.jobs] == ["b", "c"]
    assert recorder.jobs[0].known == {SETTING: {"b-1"}}


def test_errors_are_tried_again() -> None:
    known: dict[str, AnswerRecord] = {i.question_id: answer(i, "A") for i in ITEMS}
    known["b-0"] = failed(ITEMS[2], "missing video", "none")
    assert ask(known, Recorder()) == ["b-0"]


def test_a_budget_out_of_reach_is_not_tried_again() -> None:
    known = {i.question_id: failed(i, OUT_OF_REACH, "keep") for i in ITEMS[:5]}
    assert ask(known, Recorder()) == ["c-1"]


def test_nothing_to_do_loads_no_model() -> None:
    known = {item.question_id: answer(item, "A") for item in ITEMS}
    recorder = Recorder()
    assert ask(known, recorder) == []
    assert recorder.jobs == ()


@pytest.mark.parametrize("change", [{"question": "Why?"}, {"expected": "B"}, {"video_id": "z"}])
def test_answers_to_another_data_set_are_refused(change: dict[str, Any]) -> None:
    known = {"a-0": replace(answer(ITEMS[0], "A"), **change)}
    with pytest.raises(ConfigError, match="data set has changed"):
        ask(known, Recorder())


@needs_nano
def test_in_this_process() -> None:
    plan = needle_config(warm_up=False)
    videos = by_video(plan.task.items(None))
    found = list(evaluate(plan, nano, videos, {}))
    assert [each.question_id for each in found] == [i.question_id for v in videos for i in v.items]
