"""The real lmms-eval, where it is installed: see docs/lmms-eval.md for an environment."""

from pathlib import Path
from typing import Any

import pytest

import sttm
from sttm.nano import NANO_LAYER, NANO_POSITIONS
from tests.integrations.conftest import Asked

evaluator = pytest.importorskip(
    "lmms_eval.evaluator", reason="needs lmms-eval, whose pins ask for an environment of its own"
)

TASK = """
task: nano_needle
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}/test.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: "question"
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: 6
  temperature: 0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
"""
UTILS = """
def doc_to_visual(doc):
    return [doc["video"]]
"""


@pytest.fixture(scope="module")
def tasks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from lmms_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    (folder / "nano_needle.yaml").write_text(TASK.format(data=data))
    (folder / "utils.py").write_text(UTILS)
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.mark.slow
@pytest.mark.parametrize("face", ["chat", "simple"])
@pytest.mark.parametrize("keep", [0.3, 1])
def test_a_task_is_scored_as_the_library_answers(
    tasks: Any, asked: list[Asked], nano: tuple[Any, Any], keep: float, face: str
) -> None:
    done = evaluator.simple_evaluate(
        model="sttm",
        model_args=f"pretrained=nano,method=sttm,keep={keep}",
        tasks=["nano_needle"],
        task_manager=tasks,
        batch_size=1,
        force_simple=face == "simple",
        log_samples=True,
    )
    found = {
        sample["doc_id"]: sample["filtered_resps"][0] for sample in done["samples"]["nano_needle"]
    }
    method = None if keep == 1 else sttm.STTM(keep=keep)
    layer = None if method is None else NANO_LAYER
    chat = sttm.VideoChat(*nano, method, layer=layer, positions=NANO_POSITIONS)
    wanted = [chat.watch(item.video).ask(item.question, max_new_tokens=6).text for item in asked]
    assert [found[place] for place in range(len(asked))] == wanted
    score = done["results"]["nano_needle"]["exact_match,none"]
    right = [text.casefold() == item.answer.casefold() for text, item in zip(wanted, asked)]
    assert score == pytest.approx(sum(right) / len(right))
    assert done["throughput"]["avg_sttm_prefills"] == 2
