"""Spans of time: reading them, and how they count."""

import json
from pathlib import Path

import pytest

from sttm.errors import ConfigError
from sttm.evaluation.intervals import Counts, overall
from sttm.evaluation.statistics import Bootstrap
from sttm.evaluation.tasks import Item, Scored, get_task
from sttm.evaluation.tasks.spans import Span, check_rule, read_span, score_span


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4 to 7", (4, 7)),
        ("04 to 07.", (4, 7)),
        ("The digit 3 is shown from 4.0 to 7.5 seconds.", (4, 7.5)),
        ("At first 1 to 2, no: 4s-7s", (4, 7)),
        ("It starts at 4 s and ends at 7 s.", (4, 7)),
        ("1:02 – 1:00:03.5", (62, 3603.5)),
        ("Between 4 sec and 7 sec", (4, 7)),
        ("At second 4", (4, 4)),
        ("7 to 4", None),
        ("B2 is shown early", None),
        ("", None),
        ("9" * 5000 + " to " + "9" * 5001, None),
    ],
)
def test_read(text: str, expected: tuple[float, float] | None) -> None:
    assert read_span(text) == expected


@pytest.mark.parametrize(
    ("rule", "found", "score"),
    [
        ("iou", Span(4, 8), 1),
        ("iou", Span(6, 10), 2 / 6),
        ("iou", Span(4, 6), 2 / 4),
        ("iou", Span(9, 10), 0),
        ("iou", Span(5, 5), 0),
        ("iou>=0.5", Span(4, 6), 1),
        ("iou>=0.5", Span(4, 5.9), 0),
        ("start<=0", Span(4, 5), 1),
        ("start<=1", Span(5, 5), 1),
        ("start<=1", Span(2.9, 8), 0),
        ("end<=1.5", Span(0, 9.5), 1),
    ],
)
def test_score(rule: str, found: Span, score: float) -> None:
    assert score_span(rule, found, Span(4, 8)) == pytest.approx(score)


def test_a_moment_is_met_only_by_itself() -> None:
    assert [score_span("iou", Span(t, t), Span(4, 4)) for t in (4, 5)] == [1, 0]


@pytest.mark.parametrize("rule", ["iuo", "iou<=0.5", "iou>=2", "start", "end<=-1"])
def test_other_rules_are_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="expected iou"):
        check_rule(rule)


def _scored() -> list[Scored]:
    """Exact, half, none at all, and one that was skipped."""
    task = get_task("grounding")
    items = [
        Item("grounding", str(i), f"v{i}", None, "When?", answer="4 to 8", groups={"kind": "cut"})
        for i in range(4)
    ]
    texts = ["04 to 08", "4 to 6", "no idea"]
    scored = [
        Scored(item, task.right(parsed, item), parsed)
        for item, parsed in ((i, task.parse(t, i)) for i, t in zip(items, texts, strict=False))
    ]
    return [*scored, Scored(items[3], None)]


def test_equal_spans_are_right() -> None:
    assert [one.right for one in _scored()] == [True, False, False, None]


def test_metrics_have_scores_of_their_own() -> None:
    found = get_task("grounding").metrics(_scored())
    assert next(iter(found)) == "miou"
    values = {name: metric.value for name, metric in found.items()}
    assert values == pytest.approx(
        {"miou": 0.5, "r1_at_05": 2 / 3, "r1_at_07": 1 / 3, "start": 2 / 3, "start_1s": 2 / 3}
        | {"end_1s": 1 / 3}
    )
    assert (found["miou"].n, found["miou"].missing) == (3, 1)
    assert found["miou"].groups["kind"]["cut"].value == pytest.approx(0.5)


def test_intervals_are_about_the_scores() -> None:
    scored = _scored()[:3]
    counts = Counts(get_task("grounding"), scored, {f"v{i}": i for i in range(3)})
    found = overall(Bootstrap(3, resamples=200), counts, "miou")
    assert found.value == pytest.approx(0.5)
    assert found.low < found.value < found.high


def test_your_own_questions(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    file = tmp_path / "mine.jsonl"
    file.write_text('{"video": "a.mp4", "question": "When?", "answer": "0:12.5 to 17"}')
    task = get_task("custom-grounding")
    (item,) = task.items(file)
    assert task.prompt(item).startswith("When? Answer with the seconds")
    assert task.right(task.parse("From 12.5 to 17 seconds.", item), item)
    assert not task.right(task.parse("From 12 to 17 seconds.", item), item)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("answer", "early", "expected seconds such as"), ("options", ["4", "5"], "got options")],
)
def test_answers_that_are_no_spans_are_refused(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    row = {"video": "a.mp4", "question": "When?", "answer": "4", field: value}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=message):
        get_task("custom-grounding").items(tmp_path / "mine.jsonl", videos=False)
