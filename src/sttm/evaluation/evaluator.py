"""A model that is ready to answer with every setting, with times."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from sttm.attachment import attach
from sttm.chat import PrefilledVideo, VideoChat
from sttm.chat.batch import ask_alone, ask_many, decode
from sttm.chat.records import Encoded
from sttm.evaluation.clock import FirstForward, wait
from sttm.evaluation.config import EvalConfig
from sttm.evaluation.features import FeatureFolder
from sttm.evaluation.record import TimedAnswer
from sttm.evaluation.specs import Setting
from sttm.evaluation.tasks import Item
from sttm.models.transformers_api import pretrained
from sttm.video import Video, read_video


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


def _use_reproducible() -> None:
    """Make torch use only algorithms that give the same bits every time, or fail."""
    # cuBLAS reads this when its first product is computed.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
