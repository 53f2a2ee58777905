"""Answer the questions of a task with every setting; what goes wrong is an answer, too."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from sttm.chat.records import Encoded
from sttm.errors import BudgetError, ConfigError, SttmError, VideoError, WriteError
from sttm.evaluation.clock import wait
from sttm.evaluation.config import EvalConfig, VideoItems
from sttm.evaluation.evaluator import Evaluator
from sttm.evaluation.executor import Execute, Loader, Worker, run_jobs
from sttm.evaluation.record import (
    OUT_OF_REACH,
    AnswerRecord,
    answered,
    failed,
    read_answer,
)
from sttm.evaluation.specs import Setting
from sttm.evaluation.tasks import Item
from sttm.evaluation.trouble import told

# Answers that are there, by setting and question.
Known = Mapping[str, Mapping[str, AnswerRecord]]


@dataclass(frozen=True)
class Job:
    """One video's share of the work; picklable.

    Args:
        video: the video and all its questions.
        known: ids of the questions that are answered already, by setting.
    """

    video: VideoItems
    known: Mapping[str, frozenset[str]]


def evaluate(
    config: EvalConfig,
    load: Loader,
    videos: Sequence[VideoItems],
    known: Known,
    *,
    execute: Execute[Job, AnswerRecord] = run_jobs,
) -> Iterator[AnswerRecord]:
    """Answer everything that is not known yet; errors among the known are tried again.

    Args:
        config: what to run.
        load: gives the model and its processor; called once per worker.
        videos: what to ask, by video.
        known: answers that are there.
        execute: where to work; elsewhere than here, config, ``load`` and jobs are pickled.

    Yields:
        new answers of all settings, errors included, as they come.

    Raises:
        ConfigError: known answers are to other questions.
    """
    for answers in known.values():
        check_known(videos, answers)
    done = {
        str(each): {key for key, a in known.get(str(each), {}).items() if a.settled}
        for each in config.settings
    }
    jobs = []
    for video in videos:
        ids = frozenset(item.question_id for item in video.items)
        here = {name: ids & keys for name, keys in done.items()}
        if any(found < ids for found in here.values()):
            jobs.append(Job(video, here))
    if jobs:
        yield from execute(partial(_worker, config, load), jobs)


def check_known(videos: Sequence[VideoItems], known: Mapping[str, AnswerRecord]) -> None:
    """Refuse answers to other questions under the same ids.

    Raises:
        ConfigError: the data set has changed since they were given.
    """
    for video in videos:
        for item in video.items:
            found = known.get(item.question_id)
            if found is not None and not found.asks(item):
                raise ConfigError(
                    f"answers: got one to {found.question!r} ({found.expected}) under "
                    f"{item.question_id!r}, expected {item.question!r} ({item.answer}): the data "
                    "set has changed. Choose another --out."
                )


def _worker(config: EvalConfig, load: Loader) -> Worker[Job, AnswerRecord]:
    return partial(answer_video, Evaluator(config, *load()))


def answer_video(evaluator: Evaluator, job: Job) -> Iterator[AnswerRecord]:
    """Answer what is not known yet about one video, setting by setting on one encoding.

    Whatever goes wrong with the video, and whatever the processor, the model or a method raises at
    it, becomes answers with an ``error``: it is for the caller to go on or to stop.

    Args:
        evaluator: has the model.
        job: the video, and what is known.

    Yields:
        an answer per setting and question that is not known, as soon as it is there.

    Raises:
        WriteError: there is no room for a file; that would be so for every other video, too.
    """
    config = evaluator.config
    todo: dict[Setting, list[Item]] = {}
    for setting in config.settings:
        known = job.known.get(str(setting), frozenset())
        if items := [item for item in job.video.items if item.question_id not in known]:
            todo[setting] = items
    if not todo:
        return
    _seed(config.seed)
    start = time.perf_counter()
    try:
        encoded = evaluator.encode(next(iter(todo.values()))[0])
        wait()
    except WriteError:
        raise
    except Exception as error:  # noqa: BLE001 - processors and models raise whatever they like
        for setting, items in todo.items():
            yield from _failures(config, setting, items, error)
        return
    waited = video_s = time.perf_counter() - start
    for setting, items in todo.items():
        yield from _answer(evaluator, setting, items, encoded, video_s, waited)
        waited = 0.0


def _answer(
    evaluator: Evaluator,
    setting: Setting,
    items: Sequence[Item],
    encoded: Encoded,
    video_s: float,
    waited: float,
) -> Iterator[AnswerRecord]:
    """Answer with one setting; the first question waits for the video, too, if nobody has yet."""
    config, task = evaluator.config, evaluator.config.task
    _seed(config.seed)
    done = 0
    try:
        prompts = [task.prompt(item, config.prompt) for item in items]
        answers = evaluator.answers(encoded, setting, prompts)
        for item, found in zip(items, answers, strict=True):
            yield answered(
                item,
                found,
                read_answer(task, item, found.text, config.parser),
                setting=str(setting),
                video=encoded,
                video_s=video_s,
                waited=waited + found.prefill if done == 0 else 0.0,
            )
            done += 1
    except WriteError:
        raise
    except Exception as error:  # noqa: BLE001 - processors and models raise whatever they like
        yield from _failures(config, setting, items[done:], error)


def _failures(
    config: EvalConfig, setting: Setting, items: Sequence[Item], error: Exception
) -> Iterator[AnswerRecord]:
    for item in items:
        message = told(item.video_id, error)
        yield failed(item, _kind(error, item, config), message, str(setting))
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()


def _kind(error: BaseException, item: Item, config: EvalConfig) -> str:
    """Name what went wrong, for counting."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, BudgetError):
        return OUT_OF_REACH
    if isinstance(error, VideoError):
        if config.features is not None:
            return "missing or unreadable features"
        missing = not config.task.made and (item.video is None or not is_there(item))
        return "missing video" if missing else "unreadable video"
    # What is no error of sttm was raised by the processor, the model or a method.
    return "refused" if isinstance(error, SttmError) else "failed"


def is_there(item: Item) -> bool:
    """Whether the video's file, or the zip that it is in, exists."""
    video = item.video
    return video is not None and any(path.is_file() for path in (video, *video.parents))


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
