from dataclasses import replace
from pathlib import Path

import pytest

from sttm.errors import ConfigError
from sttm.evaluation.record import EMPTY, AnswerRecord, failed
from sttm.evaluation.result_log import ResultLog, read_log
from sttm.evaluation.runs import summarize

from .small import answer, items

ITEMS = items("custom", ["a", "b"], 2, [{"length": "short"}])


def test_answers_come_back_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    written = [answer(ITEMS[0], "A"), failed(ITEMS[1], "missing video", "none: no such file")]
    with ResultLog(path, {}, {}, AnswerRecord) as log:
        log.add(written)
    read = read_log(path, AnswerRecord).answers
    assert list(read.values()) == written
    assert read["a-0"].item("custom") == ITEMS[0]
    assert read["a-0"].asks(ITEMS[0])
    assert not read["a-0"].asks(ITEMS[1])


def test_an_error_is_replaced_by_an_answer_and_never_the_other_way(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    error, right = failed(ITEMS[0], "refused", "why"), answer(ITEMS[0], "A")
    for each in (error, error, right, error):
        with ResultLog(
            path, {}, {}, AnswerRecord, replaceable=lambda known: known.error is not None
        ) as log:
            log.add([each])
    assert list(read_log(path, AnswerRecord).answers.values()) == [right]
    assert len(path.read_text().splitlines()) == 3  # the header, the error once, the answer


def test_the_summary_counts_everything_under_its_name() -> None:
    hidden = replace(items("custom", ["c"], 1, [{}])[0], answer=None)
    found = summarize(
        [
            answer(ITEMS[0], "A", ttft=1.0, kept=20),
            replace(answer(ITEMS[1], "?", ttft=3.0, kept=40), parsed=None),
            failed(ITEMS[2], "missing video", "none"),
            answer(ITEMS[3], ""),
            # No letter in it, but nobody knows the right one: not counted as wrong.
            replace(answer(hidden, "?", ttft=2.0, kept=30), parsed=None, warnings=("cut short",)),
        ]
    )
    assert (found.asked, found.answered, found.right) == (5, 3, 1)
    assert (found.unparsed, found.hidden) == (1, 1)
    assert (found.damaged, found.damaged_videos) == (1, 1)
    assert found.errors == {"missing video": 1, EMPTY: 1}
    assert (found.empty, found.empty_scored) == (1, 0)
    assert found.retention == 0.3
    assert found.ttft_s == 2.0
    assert found.seconds == 2.0 + 2.5
    assert found.troubles() == [
        "1 not scored: empty answer",
        "1 not scored: missing video",
        "1 answered without an answer in the text, counted as wrong",
        "1 answered whose right answer is hidden, not scored",
        "1 answered about damaged videos (1), of which only some frames could be decoded",
    ]


def test_empty_answers_that_are_scored_are_told_apart() -> None:
    wrong = replace(answer(ITEMS[0], ""), right=False)
    found = summarize([wrong, answer(ITEMS[1], "")])
    assert (found.empty, found.empty_scored) == (2, 1)
    assert found.troubles() == ["1 not scored: empty answer", "1 counted as wrong: empty answer"]


def test_answers_from_before_a_field_are_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with ResultLog(path, {}, {}, AnswerRecord) as log:
        log.add([answer(ITEMS[0], "A")])
    path.write_text(path.read_text().replace(', "warnings": []', ""))
    assert list(read_log(path, AnswerRecord).answers.values()) == [answer(ITEMS[0], "A")]
    path.write_text(path.read_text().replace('"question_id"', '"question"'))
    with pytest.raises(ConfigError, match="line 2: got the fields"):
        read_log(path, AnswerRecord)


def test_nothing_has_no_means() -> None:
    assert summarize([]).retention is None
    assert summarize([]).troubles() == []
