"""Readers, letters and scores against numbers from the authors' code; see parity/README.md."""

import json
from pathlib import Path

import pytest

from sttm.evaluation.tasks import Item, get_task
from tests.parity.scores import EXPECTED, load, read_items, score

from . import published

TASKS = pytest.mark.parametrize("name", EXPECTED)


@pytest.fixture
def items(name: str, tmp_path: Path) -> list[Item]:
    return read_items(name, tmp_path)


@TASKS
def test_rows(name: str, items: list[Item]) -> None:
    truth = load(name)["truth"]
    assert [item.question_id for item in items] == [one["id"] for one in truth]
    assert [item.video_id for item in items] == [one["video"] for one in truth]
    assert [item.answer for item in items] == [one["answer"] for one in truth]
    for item, one in zip(items, truth, strict=True):
        wanted = {group: str(one[group]) for group in EXPECTED[name]["groups"]}
        assert item.groups == wanted


@TASKS
def test_letters(name: str, items: list[Item]) -> None:
    task = get_task(name)
    outputs = load(name)["outputs"]
    pairs = zip(outputs, items, strict=True)
    letters = [task.parse(text, item, "published") or "-" for text, item in pairs]
    assert dict(enumerate(zip(outputs, letters))) == dict(
        enumerate(zip(outputs, EXPECTED[name]["letters"], strict=True))
    )


@TASKS
def test_totals_and_groups(name: str, items: list[Item]) -> None:
    scored, expected = score(name, items), EXPECTED[name]
    micro = get_task(name).metrics(scored)["micro"]
    assert micro.value == pytest.approx(expected["micro"], abs=1e-12)
    assert (micro.n, micro.missing) == (len(items), 0)
    assert set(micro.groups) == set(expected["groups"])
    for group, values in expected["groups"].items():
        shares = {value: share.value for value, share in micro.groups[group].items()}
        assert shares == pytest.approx(values, abs=1e-12)


@TASKS
def test_every_fifth_question_is_missing(name: str, items: list[Item]) -> None:
    scored = [one for i, one in enumerate(score(name, items)) if i % 5 != 4]
    micro = get_task(name).metrics(scored, items)["micro"]
    assert micro.value == pytest.approx(EXPECTED[name]["micro_each_5th_missing"], abs=1e-12)
    assert micro.missing == len(items) // 5


@pytest.mark.parametrize("name", ["vnbench"])
def test_all_tries(name: str, items: list[Item]) -> None:
    found = get_task(name).metrics(score(name, items, "official"))["all_tries"]
    assert found.value == pytest.approx(EXPECTED[name]["official_all_tries"], abs=1e-12)


@pytest.mark.parametrize("name", ["mlvu"])
def test_macro(name: str, items: list[Item]) -> None:
    found = get_task(name).metrics(score(name, items))["macro"]
    assert found.value == pytest.approx(EXPECTED[name]["macro_of_published_letters"], abs=1e-12)


@pytest.mark.parametrize(
    ("count", "letters"), EXPECTED["longvideobench"]["published_prompt_letters"].items()
)
def test_letters_of_the_prompt(count: str, letters: str) -> None:
    item = Item("longvideobench", "q", "v", None, "Which?", tuple("vwxyz"[: int(count)]), "A")
    assert f"only the letter {letters} of" in get_task("longvideobench").prompt(item)


@pytest.mark.parametrize(("options", "answer", "letter"), EXPECTED["mlvu"]["odd_rows"])
def test_odd_rows(tmp_path: Path, options: list[str], answer: str, letter: str) -> None:
    published.mlvu(tmp_path)
    path = tmp_path / "mlvu/json/3_ego.json"
    rows = json.loads(path.read_text())
    rows[0].update(candidates=options, answer=answer)
    published.write_json(path, rows)
    items = {item.question_id: item for item in get_task("mlvu").items(tmp_path, videos=False)}
    item = items["3_ego-movie101_66-1"]
    assert (list(item.options), item.answer) == (options, letter)
