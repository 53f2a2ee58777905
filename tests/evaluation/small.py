"""Small tasks, runs and answers."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sttm.evaluation.config import EvalConfig
from sttm.evaluation.record import ANSWERS, EMPTY, AnswerRecord, Times
from sttm.evaluation.result_log import ResultLog
from sttm.evaluation.specs import make_settings
from sttm.evaluation.tasks import Item, Task, get_task

SCENES = {"frames": 4, "count": 2}


@cache
def nano() -> tuple[Any, Any]:
    import sttm.nano

    return sttm.nano.load()


def needle() -> Task:
    """Two short scenes."""
    content = get_task("needle").model_dump(by_alias=True)
    return Task.model_validate({**content, "scenes": SCENES})


def needle_config(method: str = "sttm", keep: float = 0.5, **changes: Any) -> EvalConfig:
    options = {"settings": tuple(make_settings([method], [keep])), "layer": 0, "max_new_tokens": 4}
    return EvalConfig(needle(), **{**options, **changes})


def items(
    task: str, videos: Sequence[str], per_video: int, groups: Sequence[dict[str, str]]
) -> list[Item]:
    """Questions whose right answer is always A."""
    return [
        Item(
            task,
            f"{video}-{number}",
            video,
            None,
            "Which?",
            ("one", "two"),
            "A",
            groups[place % len(groups)],
        )
        for place, video in enumerate(videos)
        for number in range(per_video)
    ]


def answer(item: Item, text: str, *, ttft: float = 1.0, kept: int = 30) -> AnswerRecord:
    """An answer; an empty text is not scored."""
    hidden = not text or item.answer is None
    return AnswerRecord(
        item.question_id,
        item.video_id,
        item.question,
        item.options,
        item.answer,
        item.groups,
        item.extra,
        error=None if text else EMPTY,
        text=text,
        parsed=text or None,
        right=None if hidden else text == item.answer,
        tokens_in=100,
        tokens_out=kept,
        new_tokens=1,
        times=Times("first", 2.0, ttft, ttft + 0.5, ttft + 2.5),
    )


def store(
    folder: Path, task: Task, answers: Iterable[AnswerRecord], *, method: str = "sttm", **more: Any
) -> Path:
    """Write a run's folder as `sttm eval run` does."""
    folder.mkdir()
    settings = {
        "benchmark": "eval",
        "task": task.name,
        "task_definition": task.name,
        "model": "nano",
        "method": method,
        "spec": method,
        "keep": 1.0 if method == "all" else 0.3,
        **more,
    }
    info = {"task": task.model_dump(mode="json", by_alias=True)}
    with ResultLog(folder / ANSWERS, settings, info, AnswerRecord) as journal:
        journal.add(answers)
    return folder
