"""Answer requests, video by video: questions about one video share its prefill."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sttm.attachment import Attachment, attach
from sttm.chat import PrefilledVideo, VideoChat
from sttm.chat.batch import ask_alone
from sttm.chat.records import Encoded
from sttm.errors import BudgetError, SttmError, VideoError
from sttm.integrations.lmms_eval.arguments import Arguments
from sttm.integrations.lmms_eval.requests import Request, check_file
from sttm.integrations.lmms_eval.stop_strings import StopStrings, cut_at
from sttm.video import VideoWarning


@dataclass(frozen=True)
class Response:
    """One answer.

    Args:
        text: the answer; empty where the video was skipped.
        tokens: of the answer.
        seconds: for the vision tower and the prefill, where the question needed them, and from the
            question to the last token; without reading the video.
        retention: video tokens behind / in front of the reduction; None where it was skipped.
    """

    text: str
    tokens: int
    seconds: float
    retention: float | None


@dataclass(frozen=True)
class Counts:
    """What answering took so far.

    Args:
        prefills: videos, or questions of a query-aware method, that went through the model.
        skipped: questions whose video could not be read.
    """

    prefills: int = 0
    skipped: int = 0


class Answerer:
    """Answers requests with one model and one reduction.

    Args:
        model: a supported transformers video model.
        processor: its processor.
        arguments: what was asked for.
        layer: the decoder layer to reduce at; None for attach's default.
        warn: told what a user should know, e.g. that a video is damaged.

    Raises:
        ConfigError, UnsupportedModelError: as `sttm.attach`.

    Attributes:
        counts: what it took so far.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        arguments: Arguments,
        *,
        layer: int | None = None,
        warn: Callable[[str], None],
    ) -> None:
        method = arguments.reduction.method
        self.counts = Counts()
        self._arguments = arguments
        self._where: dict[str, Any] = {"layer": layer, "positions": arguments.positions or "auto"}
        self._warn = warn
        self._alone = method if method is not None and method.query_aware else None
        shared = None if self._alone is not None else method
        self._chat = VideoChat(model, processor, shared, system=arguments.system, **self._where)
        if self._alone is not None:
            self._attached().detach()
        self._key: tuple[str, str | None] | None = None
        self._video: PrefilledVideo | Encoded | None = None

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        """Answer all requests, those about one video in a row.

        Yields:
            the place of a request, and the response to it.

        Raises:
            VideoError: a video cannot be read, unless such are to be skipped.
            ConfigError: the method refuses a video.
        """
        if self._arguments.on_error == "stop":
            for request in requests:  # before hours of work are lost
                with _naming(request):
                    check_file(request)
        first: dict[tuple[str, str | None], int] = {}
        for place, request in enumerate(requests):
            first.setdefault((request.video, request.system), place)
        order = sorted(
            range(len(requests)), key=lambda i: first[requests[i].video, requests[i].system]
        )
        for place in order:
            yield place, self._respond(requests[place])

    def _respond(self, request: Request) -> Response:
        try:
            with _naming(request):
                return self._try(request)
        except (VideoError, BudgetError) as error:
            if self._arguments.on_error == "stop":
                raise
            self.counts = replace(self.counts, skipped=self.counts.skipped + 1)
            self._warn(f"skipped, the answer is empty: {error}")
            return Response("", 0, 0.0, None)

    def _try(self, request: Request) -> Response:
        known = self._key
        video = self._open(request)
        paid = 0.0 if self._key == known else video.timings.encode + video.timings.prefill
        start = time.perf_counter()
        ids, retention = self._ask(video, request)
        seconds = time.perf_counter() - start
        # Not Answer.text, which is stripped: what ends an answer may be a blank line.
        text = self._chat.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return Response(cut_at(text, request.until).strip(), len(ids), paid + seconds, retention)

    def _open(self, request: Request) -> PrefilledVideo | Encoded:
        """Watch the video, unless it is the one that was watched last."""
        key = request.video, request.system
        if self._video is not None and self._key == key:
            return self._video
        # Let go of the last one first: two caches need not fit.
        self._key = self._video = None
        self._chat.system = self._arguments.system if request.system is None else request.system
        sampling = self._arguments.sampling
        check_file(request)
        with warnings.catch_warnings(record=True) as damages:
            warnings.simplefilter("always", VideoWarning)
            encoded = self._encode(
                request.video, fps=sampling.fps, max_frames=sampling.max_frames, rule=sampling.rule
            )
            self._video = encoded if self._alone is not None else self._chat.prefill(encoded)
        for damage in damages:
            self._warn(f"{request.where}: {damage.message}")
        if self._alone is None:
            self.counts = replace(self.counts, prefills=self.counts.prefills + 1)
        self._key = key
        return self._video

    def _encode(self, video: str, **sampling: Any) -> Encoded:
        if self._alone is None:
            return self._chat.encode(video, **sampling)
        # Attached, for methods that look into the vision tower.
        with self._attached():
            return self._chat.encode(video, **sampling)

    def _attached(self) -> Attachment:
        assert self._alone is not None
        return attach(self._chat.model, self._alone, **self._where)

    def _ask(self, video: PrefilledVideo | Encoded, request: Request) -> tuple[Any, float]:
        """Return the ids of the answer, and the retention."""
        generate: dict[str, Any] = {"max_new_tokens": 128, **request.generate}
        if request.until:
            stop = StopStrings(self._chat.processor.tokenizer, request.until)
            generate["stopping_criteria"] = [stop]
        if isinstance(video, PrefilledVideo):
            return video.ask(request.question, **generate).ids, video.retention
        with self._attached() as attachment:
            ids = ask_alone(self._chat, video, request.question, **generate)
        self.counts = replace(self.counts, prefills=self.counts.prefills + 1)
        kept = sum(report.tokens_out for report in attachment.reports)
        return ids.tolist(), kept / video.tokens


@contextlib.contextmanager
def _naming(request: Request) -> Iterator[None]:
    """Say which document an error is about."""
    try:
        yield
    except SttmError as error:
        raise type(error)(f"{request.where}: {error}") from error
