from pathlib import Path

from sttm.evaluation.journal import Journal, read_journal
from sttm.evaluation.run.records import EvalAnswer, failed
from sttm.evaluation.run.summary import sum_up

from .small import answer, items

ITEMS = items("custom", ["a", "b"], 2, [{"length": "short"}])


def test_answers_come_back_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    written = [answer(ITEMS[0], "A"), failed(ITEMS[1], "missing video", "none: no such file")]
    with Journal(path, {}, {}, EvalAnswer) as journal:
        journal.add(written)
    read = read_journal(path, EvalAnswer).answers
    assert list(read.values()) == written
    assert read["a-0"].item("custom") == ITEMS[0]
    assert read["a-0"].asks(ITEMS[0])
    assert not read["a-0"].asks(ITEMS[1])


def test_an_error_is_replaced_by_an_answer_and_never_the_other_way(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    error, right = failed(ITEMS[0], "refused", "why"), answer(ITEMS[0], "A")
    for each in (error, error, right, error):
        with Journal(
            path, {}, {}, EvalAnswer, replaceable=lambda known: known.error is not None
        ) as journal:
            journal.add([each])
    assert list(read_journal(path, EvalAnswer).answers.values()) == [right]
    assert len(path.read_text().splitlines()) == 3  # the header, the error once, the answer


def test_the_summary_counts_everything_under_its_name() -> None:
    hidden = items("custom", ["c"], 1, [{}])[0]
    object.__setattr__(hidden, "answer", None)
    found = sum_up(
        [
            answer(ITEMS[0], "A", ttft=1.0, kept=20),
            answer(ITEMS[1], "", ttft=3.0, kept=40),
            failed(ITEMS[2], "missing video", "none"),
            answer(hidden, "B", ttft=2.0, kept=30),
        ]
    )
    assert (found.asked, found.answered, found.right) == (4, 3, 1)
    assert (found.unparsed, found.empty, found.hidden) == (1, 1, 1)
    assert found.errors == {"missing video": 1}
    assert found.retention == 0.3
    assert found.ttft_s == 2.0
    assert found.seconds == 2.0 + 2.5
    told = " ".join(found.troubles())
    assert "1 not scored: missing video" in told
    assert "1 of them empty" in told
    assert "hidden" in told


def test_nothing_has_no_means() -> None:
    assert sum_up([]).retention is None
    assert sum_up([]).troubles() == []
