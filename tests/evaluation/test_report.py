import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sttm.evaluation.journal import AnswerRecord
from sttm.evaluation.needle import TASKS, NeedlePlan, is_right
from sttm.evaluation.report import Report, Row, summarize
from sttm.evaluation.results import write_results
from sttm.evaluation.specs import make_settings
from sttm.nano.scenes import FIRST_SEED

from .test_journal import RECORD

SETTINGS = tuple(make_settings(["sttm", "random"], [1.0, 0.5]))
PLAN = NeedlePlan(settings=SETTINGS, frames=(8,), samples=4, kinds=("static", "cut"))


def answers() -> list[AnswerRecord]:
    """All tokens know everything, sttm the digits, random nothing; four clips of two questions."""
    made = []
    for clip in PLAN.clips():
        for setting in SETTINGS:
            for index, task in enumerate(("digit", "pan")):
                right = setting.label == "all" or (setting.label == "sttm" and task == "digit")
                made.append(
                    replace(
                        RECORD,
                        kind=clip.kind,
                        seed=clip.seed,
                        index=index,
                        method=setting.label,
                        keep=setting.keep,
                        task=task,
                        right=right,
                        tokens_in=100,
                        tokens_out=100 if setting.label == "all" else 50,
                    )
                )
    return made


def find(report: Report, method: str, task: str) -> Row:
    (row,) = [r for r in report.rows if (r.method, r.task) == (method, task)]
    return row


def test_clips_are_dealt_to_kinds() -> None:
    assert [clip.kind for clip in PLAN.clips()] == ["static", "cut", "static", "cut"]
    assert [clip.seed - FIRST_SEED for clip in PLAN.clips()] == [0, 1, 2, 3]


def test_rows_and_differences() -> None:
    report = summarize(PLAN, answers(), TASKS, against="sttm")
    assert report.tasks == ("digit", "pan")
    assert find(report, "sttm", "digit").accuracy == 1.0
    assert find(report, "sttm", "pan").accuracy == 0.0
    mean = find(report, "sttm", "all")
    assert (mean.accuracy, mean.ci_low, mean.ci_high, mean.n) == (0.5, 0.5, 0.5, 8)
    assert (mean.retention, mean.clips) == (0.5, 4)
    assert find(report, "all", "all").retention == 1.0
    found = {(d.method, d.against, d.task): d for d in report.differences}
    assert found["sttm", "all", "all"].difference == -0.5
    assert found["random", "sttm", "digit"].difference == -1.0
    assert found["random", "sttm", "all"].ci_high == -0.5
    assert ("sttm", "sttm", "all") not in found
    assert len(report.by_kind) == 2 * len(SETTINGS) * 3
    assert {row.clips for row in report.by_kind} == {2}


def test_answers_of_other_clips_and_methods_are_left_out() -> None:
    strange = [
        replace(RECORD, seed=1, right=False, method="all", keep=1.0),
        replace(RECORD, method="tome", seed=FIRST_SEED),
    ]
    assert summarize(PLAN, [*answers(), *strange], TASKS) == summarize(PLAN, answers(), TASKS)


def test_a_setting_out_of_reach_for_some_clips_has_no_accuracy() -> None:
    some = [
        replace(a, answer=None, right=None, tokens_out=None)
        if a.method == "random" and a.seed == FIRST_SEED
        else a
        for a in answers()
    ]
    report = summarize(PLAN, some, TASKS)
    row = find(report, "random", "all")
    assert (row.accuracy, row.retention, row.n) == (None, None, 0)
    assert find(report, "sttm", "all").accuracy == 0.5


def test_files(tmp_path: Path) -> None:
    report = summarize(PLAN, answers(), TASKS, against="sttm")
    header = {"settings": {"model": "nano", "layer": 0}, "against": "sttm", "command": "sttm x"}
    files = write_results(tmp_path, report, header)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["rows"][0]["method"] == "all"
    assert len((tmp_path / "results.json").read_text().splitlines()) == 1
    assert {"rows", "by_kind", "differences", "tasks", "settings", "format"} <= set(found)
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(report.rows) + len(report.by_kind)
    text = (tmp_path / "results.md").read_text()
    assert "| sttm | 0.5 | 50.0 | 100.0 | 0.0 | 50.0 [50.0, 50.0] | -50.0 [-50.0, -50.0] |" in text
    assert "| less sttm | keep 0.5 |" in text
    assert "scenes of kind cut" in text
    assert Image.open(tmp_path / "accuracy.png").width > 400


@pytest.mark.parametrize(
    ("answer", "right"),
    [("7", True), (" 7. ", True), ("77", False), ("", False), ("Top Left", False)],
)
def test_right_answers(answer: str, right: bool) -> None:
    assert is_right(answer, "7") is right
    assert is_right("Top Left", "top left")
