"""Answer the questions of a task with every setting; what goes wrong is an answer, too."""

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from sttm.attachment import attach
from sttm.chat import PrefilledVideo, VideoChat
from sttm.chat.batch import ask_alone, ask_many, decode
from sttm.chat.records import Encoded
from sttm.errors import BudgetError, ConfigError, SttmError, VideoError, WriteError
from sttm.evaluation.clock import FirstForward, wait
from sttm.evaluation.config import EvalConfig, VideoItems
from sttm.evaluation.executor import Execute, Loader, Worker, run_jobs
from sttm.evaluation.features import FeatureFolder
from sttm.evaluation.record import (
    OUT_OF_REACH,
    AnswerRecord,
    TimedAnswer,
    answered,
    failed,
    read_answer,
)
from sttm.evaluation.specs import Setting
from sttm.evaluation.tasks import Item
from sttm.evaluation.trouble import told
from sttm.models.transformers_api import pretrained
from sttm.video import Video, read_video

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


class Evaluator:
    """A model that is ready to answer with every setting; one per process.

    Args:
        config: what to run.
        model: a supported transformers video model.
        processor: its processor.

    Raises:
        ConfigError, UnsupportedModelError: see `sttm.attach`; or the features do not fit.
    """

    def __init__(self, config: EvalConfig, model: Any, processor: Any) -> None:
        if config.reproduce:
            _use_reproducible()
        self.config = config
        self.model = model
        self.processor = processor
        self._cold = set(config.settings) if config.warm_up and config.batch == 1 else set()
        self._where: dict[str, Any] = {"layer": config.layer, "positions": config.positions}
        self._plain = VideoChat(model, processor)
        self._chats: dict[Setting, VideoChat] = {}
        self._observer = None
        for setting in config.settings:
            method = setting.method
            if method is None:
                self._chats[setting] = self._plain
            elif method.query_aware:
                attach(model, method, **self._where).detach()
            else:
                self._chats[setting] = VideoChat(model, processor, method, **self._where)
            if method is not None and "tower_attention" in method.requires:
                self._observer = self._observer or method
        self._features: FeatureFolder | None = None
        if config.features is not None:
            self._features = FeatureFolder.open(config.features, model, sampling=config.frames)
            for setting in config.settings:
                self._features.check_method(setting.method)

    def encode(self, item: Item) -> Encoded:
        """Decode and encode the video of an item for all settings, or load its features.

        A damaged video gives the frames that can be decoded; ``source.warnings`` tells.

        Raises:
            SttmError: the video or the features are not there, or cannot be read.
        """
        task = self.config.task
        if self._features is not None:
            chat, video_id = self._plain, item.video_id
            encoded = self._features.encoded(chat, video_id)
            context = task.context(item, encoded.source.timestamps)
            return self._features.encoded(chat, video_id, context=context) if context else encoded
        video = task.video(item)
        if not isinstance(video, Video):  # what is wrong with a file is in the record
            video = read_video(video, **asdict(self.config.frames), warn=False)
        context = task.context(item, video.timestamps)
        with torch.no_grad():
            if self._observer is None:
                return self._plain.encode(video, context=context)
            with attach(self.model, self._observer, **self._where):
                return self._plain.encode(video, context=context)

    def answers(
        self, encoded: Encoded, setting: Setting, questions: Sequence[str]
    ) -> Iterator[TimedAnswer]:
        """Answer questions, each as if it were alone, and time them.

        Methods that do not depend on the question share one prefill; a query-aware one pays one per
        question. The first question of a setting in a process is answered twice, to warm up.

        Yields:
            an answer per question, as soon as it is there.

        Raises:
            ConfigError: the method refuses the video; BudgetError if its budget is the reason.
        """
        if setting in self._cold:
            self._cold.remove(setting)
            list(self._answers(encoded, setting, questions[:1]))
        yield from self._answers(encoded, setting, questions)

    def _answers(
        self, encoded: Encoded, setting: Setting, questions: Sequence[str]
    ) -> Iterator[TimedAnswer]:
        if setting not in self._chats:
            for question in questions:
                yield self._alone(encoded, setting, question)
            return
        with FirstForward(pretrained(self.model)) as filling:
            watched = self._chats[setting].prefill(encoded)
        if self.config.batch > 1:
            yield from self._batches(watched, questions)
            return
        for question in questions:
            with FirstForward(pretrained(self.model)) as asking:
                answer = watched.ask(question, max_new_tokens=self.config.max_new_tokens)
            yield TimedAnswer(
                answer.text,
                len(answer.ids),
                watched.tokens_out,
                shared=True,
                prefill=filling.seconds,
                first_forward=asking.seconds,
                answering=answer.seconds,
            )

    def _batches(self, video: PrefilledVideo, questions: Sequence[str]) -> Iterator[TimedAnswer]:
        """Answer several questions at once; what one of them took is not known."""
        size, longest = self.config.batch, self.config.max_new_tokens
        for first in range(0, len(questions), size):
            for text in ask_many(video, questions[first : first + size], max_new_tokens=longest):
                yield TimedAnswer(text, None, video.tokens_out, True, 0.0, 0.0, 0.0)

    def _alone(self, encoded: Encoded, setting: Setting, question: str) -> TimedAnswer:
        """Answer with a prefill of its own."""
        start = time.perf_counter()
        assert setting.method is not None
        with (
            attach(self.model, setting.method, **self._where) as attachment,
            FirstForward(pretrained(self.model)) as clock,
        ):
            longest = self.config.max_new_tokens
            ids = ask_alone(self._plain, encoded, question, max_new_tokens=longest, do_sample=False)
        wait()
        return TimedAnswer(
            decode(self.processor, ids),
            len(ids),
            sum(report.tokens_out for report in attachment.reports),
            shared=False,
            prefill=0.0,
            first_forward=clock.seconds,
            answering=time.perf_counter() - start,
        )


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


def _use_reproducible() -> None:
    """Make torch use only algorithms that give the same bits every time, or fail."""
    # cuBLAS reads this when its first product is computed.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
