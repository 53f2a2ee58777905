import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sttm.errors import ConfigError
from sttm.evaluation.intervals import OVERALL, Counts, overall, per_group
from sttm.evaluation.presets import get_preset
from sttm.evaluation.record import AnswerRecord, failed
from sttm.evaluation.render import Section, markdown, table, write_report
from sttm.evaluation.report import FAMILY, make_report
from sttm.evaluation.runs import load_runs
from sttm.evaluation.statistics import Bootstrap, mcnemar
from sttm.evaluation.tasks import Item, Scored, get_task

from .small import answer, items, store

CUSTOM = get_task("custom")
GROUPS = [{"length": "short"}, {"length": "long"}]
ITEMS = items("custom", [f"v{i}" for i in range(10)], 2, GROUPS)


def answers(texts: Callable[[int], str], ttft: float = 1.0) -> list[AnswerRecord]:
    return [answer(item, texts(place), ttft=ttft) for place, item in enumerate(ITEMS)]


def two_runs(folder: Path) -> list[Path]:
    """All tokens: 16 of 20 right; merged: 12 of them, and one other."""
    full = answers(lambda i: "A" if i < 16 else "B", ttft=2.0)
    merged = answers(lambda i: "A" if i < 12 or i == 19 else "B", ttft=0.5)
    return [
        store(folder / "full", CUSTOM, full, method="all"),
        store(folder / "merged", CUSTOM, merged),
    ]


@pytest.mark.parametrize("name", ["vnbench", "mlvu", "nextqa", "videomme", "needle"])
def test_intervals_are_about_the_metrics_of_the_task(name: str) -> None:
    task = get_task(name)
    kinds = [
        {"task_type": kind, "duration": "short", "kind": "cut"}
        for kind in ("ret_insert1", "ret_insert2", "cnt_edit1", "CW", "TN", "order")
    ]
    some = items(name, [f"v{i}" for i in range(30)], 4, kinds)
    random = np.random.Generator(np.random.PCG64(1))
    # Whole videos are often right, or all tries never would be.
    lucky = {item.video_id: random.random() for item in some}
    scored = [Scored(item, bool(random.random() < lucky[item.video_id] + 0.5)) for item in some]
    scored[5] = Scored(some[5], None)
    places = {video: place for place, video in enumerate(lucky)}
    counts = Counts(task, scored, places)
    bootstrap = Bootstrap(len(places), resamples=200)
    for metric, whole in task.metrics(scored).items():
        found = overall(bootstrap, counts, metric)
        assert found.value == pytest.approx(whole.value)
        assert 0 < found.low < found.value < found.high < 1
        for group, shares in whole.groups.items():
            values = counts.counted(metric, group).values
            assert values == tuple(sorted(shares))
            if group == FAMILY:
                continue
            for value, each in per_group(bootstrap, counts, metric, group).items():
                assert each.value == pytest.approx(shares[value].value)
    assert counts.counted("micro", OVERALL).tally.asked.sum() == len(some) - 1


def test_relative_numbers_and_the_paired_test(tmp_path: Path) -> None:
    report = make_report(load_runs(two_runs(tmp_path)), compare=True)
    full, merged = report.runs
    assert (full.accuracy, merged.accuracy) == (0.8, 0.65)
    assert full.full == merged.full == "full"
    assert merged.relative_accuracy == pytest.approx(0.65 / 0.8)
    assert merged.relative_low is not None
    assert merged.relative_high is not None
    assert merged.relative_low < 0.65 / 0.8 < merged.relative_high
    assert merged.relative_ttft == 0.25
    assert merged.common == 20
    (test,) = report.comparisons
    assert (test.only_first, test.only_second, test.both, test.neither) == (4, 1, 12, 3)
    assert test.difference == pytest.approx(0.15)
    assert test.p_value == 0.375
    assert (test.questions, test.videos, test.differs) == (20, 10, ())


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (9, 1, 0.021484375), (0, 10, 2 / 1024), (1000, 1200, 2.15e-5)],
)
def test_mcnemar(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p, rel=0.05)
    assert mcnemar(second, first) == mcnemar(first, second)


def test_only_questions_that_both_answered_are_compared(tmp_path: Path) -> None:
    full = answers(lambda _: "A")
    merged = answers(lambda _: "B")
    merged[:10] = [failed(item, "missing video", "none") for item in ITEMS[:10]]
    paths = [
        store(tmp_path / "full", CUSTOM, full[4:], method="all"),
        store(tmp_path / "merged", CUSTOM, merged),
    ]
    report = make_report(load_runs(paths), compare=True)
    assert report.comparisons[0].questions == 10
    row = report.runs[1]
    # What could not be asked is not scored, neither right nor wrong, and is told.
    assert row.accuracy == 0.0
    assert [r.n for r in report.accuracies if r.run == "merged" and not r.group] == [10]
    assert "10 not scored: missing video" in row.troubles()
    assert "10 not scored: missing video" in markdown(report, {})


def test_nothing_in_common(tmp_path: Path) -> None:
    paths = [
        store(tmp_path / "full", CUSTOM, answers(lambda _: "A")[:2], method="all"),
        store(tmp_path / "merged", CUSTOM, answers(lambda _: "A")[2:]),
        store(tmp_path / "none", CUSTOM, []),
    ]
    report = make_report(load_runs(paths), compare=True)
    assert report.runs[1].relative_accuracy is None
    assert report.runs[2].accuracy is None
    assert all(test.difference is None and test.p_value == 1 for test in report.comparisons)
    write_report(tmp_path, report, {})


def test_a_full_run_of_other_settings_is_not_taken_by_itself(tmp_path: Path) -> None:
    full, merged = two_runs(tmp_path)
    other = store(tmp_path / "other", CUSTOM, answers(lambda _: "A"), method="all", weights="x")
    assert make_report(load_runs([other, merged])).runs[1].full is None
    chosen = load_runs([other])[0]
    report = make_report(load_runs([merged]), full=chosen)
    assert report.runs[0].relative_accuracy == 0.65
    another = store(tmp_path / "mlvu", get_task("mlvu"), [], method="all")
    with pytest.raises(ConfigError, match="a run of mlvu"):
        make_report(load_runs([full]), full=load_runs([another])[0])


def test_runs_of_two_parsers_are_not_set_in_relation_by_themselves(tmp_path: Path) -> None:
    full = store(
        tmp_path / "full", CUSTOM, answers(lambda _: "A"), method="all", parser="published"
    )
    merged = store(tmp_path / "merged", CUSTOM, answers(lambda _: "B"), parser="clean")
    report = make_report(load_runs([full, merged]), compare=True)
    row = report.runs[1]
    assert (row.full, row.near, row.full_differs) == (None, "full", ("parser",))
    assert row.relative_accuracy is None
    told = "no relative numbers: full differs in parser, too (--parser reads all runs by one rule)"
    assert told in row.troubles()
    assert report.comparisons[0].differs == ("parser",)
    # By one rule they may be.
    row = make_report(load_runs([full, merged], parser="published")).runs[1]
    assert (row.full, row.near, row.relative_accuracy) == ("full", None, 0.0)
    # A run that is chosen is taken, and what differs is told.
    row = make_report(load_runs([merged]), full=load_runs([full])[0]).runs[0]
    assert (row.full, row.relative_accuracy) == ("full", 0.0)
    assert any("relative to full, which differs in parser" in text for text in row.troubles())


@pytest.mark.parametrize(
    ("features", "alike"),
    [("0123abcd", True), ("published/llava-video-7b/F-128_fps-1", False)],
)
def test_features_of_others_are_another_setting(tmp_path: Path, features: str, alike: bool) -> None:
    paths = [
        store(tmp_path / "full", CUSTOM, [], method="all", features=None),
        store(tmp_path / "merged", CUSTOM, [], features=features),
    ]
    full, merged = load_runs(paths)
    assert merged.differs(full) == ([] if alike else ["features"])


def test_empty_answers_that_are_left_out_are_weighed(tmp_path: Path) -> None:
    some = [answer(ITEMS[0], "A"), answer(ITEMS[1], "A"), answer(ITEMS[2], "B")]
    folder = store(tmp_path / "run", CUSTOM, [*some, answer(ITEMS[3], "")])
    (row,) = make_report(load_runs([folder])).runs
    assert (row.accuracy, row.n, row.accuracy_if_empty_wrong) == (0.66667, 3, 0.5)
    assert row.troubles() == [
        "1 not scored: empty answer",
        "with empty answers counted as wrong the accuracy is 50.0",
    ]
    # The published rule has them wrong.
    (row,) = make_report(load_runs([folder], parser="published")).runs
    assert (row.accuracy, row.n, row.accuracy_if_empty_wrong) == (0.5, 4, None)
    assert row.troubles() == ["1 counted as wrong: empty answer"]


def test_questions_whose_answer_is_hidden_are_not_in_n(tmp_path: Path) -> None:
    hidden = answer(replace(ITEMS[1], answer=None), "A")
    report = make_report(
        load_runs([store(tmp_path / "run", CUSTOM, [hidden, *answers(lambda _: "A")[2:4]])])
    )
    columns, (line,) = table(report, Section("custom", "nano"))
    assert dict(zip(columns, line))["n"] == "2"
    assert report.runs[0].summary.answered == 3


def test_an_ablation_of_the_paper_stands_beside_its_run(tmp_path: Path) -> None:
    task = get_task("videomme")
    preset = get_preset("sttm-paper/llava-video-7b/videomme/30/single-9x9")
    given = [answer(item, "A") for item in items("videomme", ["a", "b"], 2, [{}])]
    made = {name: value for name, value in preset.choices().items() if name != "task"}
    folder = store(tmp_path / "single", task, given, model=preset.model, newline="no_token", **made)
    report = make_report(load_runs([folder]))
    (row,) = report.runs
    assert row.published is not None
    assert row.published.name == "llava-video-7b/videomme/30/single-9x9"
    assert row.published_differs == (
        "dtype none instead of bfloat16",
        "4 questions counted instead of 2700",
    )
    text = markdown(report, {})
    line = "| *arXiv 2507.07990, table 5 (differs)* | *single-9x9* | *-* | *41.3* | *-* | *97.4* |"
    assert line in text


def test_groups_of_a_user_s_own_questions(tmp_path: Path) -> None:
    report = make_report(load_runs(two_runs(tmp_path)))
    full = [row for row in report.accuracies if row.run == "full"]
    assert [(row.group, row.value, row.accuracy) for row in full] == [
        ("", "", 0.8),
        ("length", "long", 0.8),
        ("length", "short", 0.8),
    ]
    assert "### micro, by length" in markdown(report, {})


def test_videos_without_an_answer_give_no_interval(tmp_path: Path) -> None:
    some = [answer(ITEMS[0], "A"), answer(ITEMS[1], "B")]
    some += [failed(item, "missing video", "none") for item in ITEMS[2:]]
    (row,) = make_report(load_runs([store(tmp_path / "run", CUSTOM, some)])).runs
    assert (row.accuracy, row.ci_low, row.ci_high) == (0.5, None, None)


def test_answers_can_be_parsed_anew(tmp_path: Path) -> None:
    word = [replace(answer(ITEMS[0], "A"), text="Based on A", parsed="A", right=True)]
    folder = store(tmp_path / "run", CUSTOM, word)
    published = load_runs([folder], parser="published")[0].answers["v0-0"]
    assert (published.parsed, published.right) == ("B", False)
    assert load_runs([folder])[0].answers["v0-0"].right is True


def test_the_paper_stands_beside_a_run(tmp_path: Path) -> None:
    task = get_task("mlvu")
    some: list[Item] = items("mlvu", ["a", "b"], 2, [{"task_type": "order"}])
    model = "lmms-lab/LLaVA-Video-7B-Qwen2-Video-Only"
    given = [answer(item, "A") for item in some]
    paths = [
        store(tmp_path / "fastv", task, given, method="fastv", model=model),
        store(tmp_path / "sttm", task, given, method="sttm", model=model),
    ]
    report = make_report(load_runs(paths))
    fastv, sttm = (row.published for row in report.runs)
    assert fastv is not None
    assert "70 %" in fastv.doubt
    assert sttm is not None
    assert (sttm.accuracy, sttm.ttft_s, sttm.tokens) == (0.685, 0.769, 7337)
    text = markdown(report, {})
    assert "*arXiv 2507.07990, table 11 (differs) (?)*" in text
    assert "*96.6*" in text
    (told,) = [each for each in report.runs[1].troubles() if "not as in the paper's row" in each]
    assert "4 questions counted instead of 2174" in told
    assert "parser none instead of published" in told
    write_report(tmp_path, report, {})
    row = list(csv.DictReader((tmp_path / "runs.csv").open()))[1]
    assert (row["n"], row["paper_name"]) == ("4", "llava-video-7b/mlvu/30")
    assert (row["paper_accuracy"], row["paper_relative_accuracy"]) == ("0.685", "0.96615")
    assert "4 questions counted" in row["paper_differs"]
    assert "one A100-80G" in text


def test_files(tmp_path: Path) -> None:
    report = make_report(load_runs(two_runs(tmp_path)), compare=True)
    header = {
        "command": "sttm eval report",
        "settings": {"merged": {"layer": 2, "seed": 42}},
        "runs_about": {"merged": {"machine": {"commit": "abc", "torch": "2.9"}}},
    }
    files = write_report(tmp_path, report, header)
    assert [path.name for path in files] == [
        "report.json",
        "runs.csv",
        "accuracies.csv",
        "report.md",
        "accuracy.png",
    ]
    found = json.loads(files[0].read_text())
    assert found["runs"][1]["summary"]["retention"] == 0.3
    rows = list(csv.DictReader(files[1].open()))
    assert [row["relative_ttft"] for row in rows] == ["1.0", "0.25"]
    assert {row["metric"] for row in csv.DictReader(files[2].open())} == {"micro"}
    text = files[3].read_text()
    assert "| merged | sttm | 0.3 | 30.0 | 65.0 [" in text
    assert "## Paired comparisons" in text
    assert "- merged: layer 2, seed 42, commit abc, torch 2.9\n" in text
    assert files[4].read_bytes().startswith(b"\x89PNG")


def test_runs_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        store(tmp_path / name / "run", CUSTOM, [])
    runs = load_runs([tmp_path / "one" / "run", tmp_path / "two" / "run"])
    assert [run.name for run in runs] == ["one/run", "two/run"]
    with pytest.raises(ConfigError, match="twice"):
        load_runs([tmp_path / "one" / "run"] * 2)
    with pytest.raises(ConfigError, match=r"no answers\.jsonl"):
        load_runs([tmp_path / "one" / "run" / "none"])
