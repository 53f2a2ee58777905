"""Tasks as data: the files that sttm brings, a user's own, prompts, submissions."""

import json
from pathlib import Path

import pytest

from sttm.errors import ConfigError, UnknownNameError
from sttm.evaluation.tasks import Item, get_task, list_tasks

FOUR = Item("vnbench", "q", "v", None, "Which {fruit}?", ("red", "green", "blue", "grey"), "A")
HEAD = (
    "Select the best answer to the following multiple-choice question based on the video and the "
    "subtitles. Respond with only the letter ({}) of the correct option.\n"
)
OFFICIAL_END = "Answer with the option's letter from the given choices directly."
BENCHMARKS = ("vnbench", "videomme", "longvideobench", "mlvu", "nextqa", "egoschema")

OWN = """\
version: 3
title: Mine
description: Birds.
reader: custom
frames: {rule: uniform, fps: 2, max_frames: 16}
prompts:
  published: {template: "{question} ({slashed})\\n{options}", option: "[{letter}] {text}"}
metrics:
  micro: {}
"""


def test_all_tasks_are_there() -> None:
    assert set(list_tasks()) == {
        *BENCHMARKS,
        "videomme-subtitles",
        "egoschema-subset",
        "needle",
        "grounding",
        "custom",
        "custom-grounding",
    }
    for name in list_tasks():
        task = get_task(name)
        assert task.name == name
        assert task.parsing.default == "clean"
        assert "published" in task.prompts
        assert (task.frames.fps, task.frames.rule) == (1.0, "llava")
        assert task.frames.max_frames == (180 if name == "vnbench" else 128)
        # A task whose files are published tells how to get them.
        assert (
            task.made
            or task.reader.startswith("custom")
            or (task.download and task.expected.questions)
        )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_authors_report_plain_accuracy(name: str) -> None:
    assert next(iter(get_task(name).metrics([]))) == "micro"


def test_published_prompt() -> None:
    assert get_task("videomme").prompt(FOUR) == (
        HEAD.format("A, B, C, or D")
        + "Which {fruit}?\nA. red\nB. green\nC. blue\nD. grey\nThe best answer is:"
    )
    # VNBench: with a full stop of the authors'.
    assert "\nA. red.\nB. green.\nC. blue.\nD. grey.\nThe best" in get_task("vnbench").prompt(FOUR)


def test_letters_follow_the_options() -> None:
    three = Item("longvideobench", "q", "v", None, "Which?", ("x", "y", "z"), "A")
    two = Item("custom", "q", "v", None, "Which?", ("x", "y"), "A")
    five = Item("nextqa", "q", "v", None, "Which?", ("v", "w", "x", "y", "z"), "A")
    assert get_task("videomme").prompt(three).startswith(HEAD.format("A, B, or C"))
    # One too many, as the authors have it.
    assert get_task("longvideobench").prompt(three).startswith(HEAD.format("A, B, C, or D"))
    assert get_task("custom").prompt(two).startswith(HEAD.format("A or B"))
    assert get_task("nextqa").prompt(five).startswith(HEAD.format("A, B, C, D, or E"))


OPTIONS = "A. red\nB. green\nC. blue\nD. grey"


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("vnbench", f"Which {{fruit}}?\n{OPTIONS}\n{OFFICIAL_END}"),
        ("longvideobench", f"Which {{fruit}}?\n{OPTIONS}\n{OFFICIAL_END}\n"),
        ("egoschema", f"Which {{fruit}}?\n{OPTIONS}\n{OFFICIAL_END}"),
        ("nextqa", f"Which {{fruit}}?\n{OPTIONS}"),
        (
            "mlvu",
            "Question: Which {fruit}?\nOptions:\n(A) red\n(B) green\n(C) blue\n(D) grey\n"
            "Only give the best option.\nBest option:(",
        ),
        (
            "videomme",
            HEAD.format("A, B, C, or D").replace(" and the subtitles", "")
            + f"Which {{fruit}}?\n{OPTIONS}\nThe best answer is:",
        ),
        (
            "videomme-subtitles",
            HEAD.format("A, B, C, or D") + f"Which {{fruit}}?\n{OPTIONS}\nThe best answer is:",
        ),
    ],
)
def test_official_prompts(name: str, prompt: str) -> None:
    assert get_task(name).prompt(FOUR, "official") == prompt


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'published'"):
        get_task("mlvu").prompt(FOUR, "publish")


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'vnbench'"):
        get_task("vnbensh")


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "birds.yaml"
    file.write_text(OWN)
    task = get_task(file)
    assert (task.name, task.version, task.frames.max_frames) == ("birds", 3, 16)
    assert get_task(str(file)) == task
    asked = "Which {fruit}? (A/B/C/D)\n[A] red\n[B] green\n[C] blue\n[D] grey"
    assert task.prompt(FOUR) == asked
    (tmp_path / "birds.jsonl").write_text(
        json.dumps({"video": "v.mp4", "question": "Q?", "options": ["a", "b"], "answer": "B"})
    )
    items = task.items(tmp_path / "birds.jsonl", videos=False)
    assert [item.task for item in items] == ["birds"]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("version: 3", "version: three", "version: .*integer"),
        ("title: Mine\n", "", "title: Field required"),
        ("reader: custom", "reader: costum", "Did you mean 'custom'"),
        ("rule: uniform", "rule: evenly", "unknown sampling rule"),
        ("{slashed}", "{sashed}", "got {sashed} in a template"),
        ("micro: {}", "micro: {kind: mikro}", "Did you mean 'micro'"),
        ("micro: {}", "macro: {kind: macro}", "got no group"),
        ("reader: custom", "reader: custom\ncolour: red", "colour: Extra inputs"),
        ("reader: custom", "reader: custom\nparsing: {default: clear}", "Did you mean 'clean'"),
        ("version: 3", "version: [", "cannot be read as a task"),
        (OWN, "- a\n- b\n", "got no mapping"),
    ],
)
def test_a_malformed_task_is_refused(tmp_path: Path, old: str, new: str, error: str) -> None:
    file = tmp_path / "mine.yaml"
    assert old in OWN
    file.write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError, match=error) as caught:
        get_task(file)
    assert str(file) in str(caught.value)


def test_a_task_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        get_task(tmp_path / "none.yaml")


def test_answers_are_handed_in_as_numbers(tmp_path: Path) -> None:
    submission = get_task("egoschema").submission
    assert submission is not None
    answers = {"0074f737": "C", "00aa7247": None, "001934bb": "A"}
    assert submission.write(answers, tmp_path / "answers.json") == 1
    written = json.loads((tmp_path / "answers.json").read_text())
    assert written == {"0074f737": 2, "00aa7247": -1, "001934bb": 0}
    submission.write(answers, tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text() == (
        "q_uid,answer\n0074f737,2\n00aa7247,-1\n001934bb,0\n"
    )
    with pytest.raises(ConfigError, match=r"expected \.json or \.csv"):
        submission.write(answers, tmp_path / "answers.txt")
