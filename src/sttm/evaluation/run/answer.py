"""Answer all questions about one video on one prefill; what goes wrong is an answer, too."""

import os
import random
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from sttm.chat.records import Encoded
from sttm.errors import BudgetError, SttmError, VideoError, WriteError
from sttm.evaluation.clock import wait
from sttm.evaluation.features import FeatureFolder
from sttm.evaluation.run.plan import EvalPlan, VideoItems
from sttm.evaluation.run.reading import read_answer
from sttm.evaluation.run.records import EvalAnswer, answered, failed
from sttm.evaluation.runner import Runner, TimedAnswer
from sttm.evaluation.tasks import Item
from sttm.evaluation.trouble import told
from sttm.video import Video, read_video


class EvalRunner:
    """A model that is ready to answer; one per process.

    Args:
        plan: what to run.
        model: a supported transformers video model.
        processor: its processor.

    Raises:
        ConfigError, UnsupportedModelError: see `sttm.attach`; or the features do not fit.
    """

    def __init__(self, plan: EvalPlan, model: Any, processor: Any) -> None:
        if plan.reproduce:
            _use_reproducible()
        self.plan = plan
        self.warm = not plan.warm_up
        self._runner = Runner(
            model,
            processor,
            [plan.setting],
            layer=plan.layer,
            positions=plan.positions,
            max_new_tokens=plan.max_new_tokens,
        )
        self._features: FeatureFolder | None = None
        if plan.features is not None:
            self._features = FeatureFolder.open(plan.features, model, sampling=plan.frames)
            self._features.check_method(plan.setting.method)

    def encode(self, item: Item) -> Encoded:
        """Decode and encode the video of an item, or load its features.

        A damaged video gives the frames that can be decoded; ``source.warnings`` tells.

        Raises:
            SttmError: the video or the features are not there, or cannot be read.
        """
        task, sampling = self.plan.task, self.plan.frames
        if self._features is not None:
            chat, video_id = self._runner.chat, item.video_id
            encoded = self._features.encoded(chat, video_id)
            context = task.context(item, encoded.source.timestamps)
            return self._features.encoded(chat, video_id, context=context) if context else encoded
        video = task.video(item)
        if not isinstance(video, Video):
            video = read_video(video, **asdict(sampling), warn=False)  # it is in the record
        return self._runner.encode(video, context=task.context(item, video.timestamps))

    def answers(self, encoded: Encoded, prompts: Sequence[str]) -> Iterator[TimedAnswer]:
        """Answer questions one by one; the first ones of a process twice, to warm up."""
        if not self.warm:
            self.warm = True
            for _ in self._runner.answers(encoded, self.plan.setting, prompts[:1]):
                pass
        yield from self._runner.answers(encoded, self.plan.setting, prompts)


def answer_video(
    runner: EvalRunner, plan: EvalPlan, video: VideoItems, known: Container[str]
) -> Iterator[EvalAnswer]:
    """Answer what is not known yet about one video.

    The video is decoded, encoded and prefilled once. What goes wrong with it (the file is missing
    or damaged, the method refuses it, the processor or the model fails, memory runs out) becomes
    answers with an ``error``: it is for the caller to go on or to stop.

    Args:
        runner: of ``plan.runner``.
        plan: what to run.
        video: the video and all its questions.
        known: ids of the questions that are answered already.

    Yields:
        an answer per question that is not known, as soon as it is there.

    Raises:
        WriteError: there is no room for a file; that would be so for every other video, too.
    """
    todo = [item for item in video.items if item.question_id not in known]
    done = 0
    try:
        for answer in _answers(runner, plan, todo):
            done += 1
            yield answer
    except WriteError:
        raise
    except Exception as error:  # noqa: BLE001 - processors and models raise whatever they like
        kind, message = _kind(error, todo[done], plan), told(video.video_id, error)
        for item in todo[done:]:
            yield failed(item, kind, message)
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()


def _answers(runner: EvalRunner, plan: EvalPlan, todo: Sequence[Item]) -> Iterator[EvalAnswer]:
    if not todo:
        return
    task = plan.task
    _seed(plan.seed)
    prompts = [task.prompt(item, plan.prompt) for item in todo]
    start = time.perf_counter()
    encoded = runner.encode(todo[0])
    wait()
    video_s = time.perf_counter() - start
    answers = runner.answers(encoded, prompts)
    for place, (item, found) in enumerate(zip(todo, answers, strict=True)):
        read = read_answer(task, item, found.text, plan.parser)
        yield answered(item, found, read, video=encoded, video_s=video_s, first=place == 0)


def _kind(error: BaseException, item: Item, plan: EvalPlan) -> str:
    """Name what went wrong, for counting."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, BudgetError):
        return "budget out of reach"
    if isinstance(error, VideoError):
        if plan.features is not None:
            return "missing or unreadable features"
        missing = not plan.task.made and (item.video is None or not is_there(item))
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
