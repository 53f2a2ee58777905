"""A video that is watched while it comes: frames in, questions at any moment."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sttm.chat.growing import GrowingPrompt, OpenedPrompt
from sttm.chat.identity import method_key
from sttm.chat.prefilled import PrefilledVideo
from sttm.chat.prompt import (
    check_messages,
    frames_per_step,
    model_inputs,
    open_prompt,
    opening,
)
from sttm.chat.records import Answer, Source, Timings
from sttm.chat.step_texts import StepTexts, timed_video
from sttm.errors import ConfigError
from sttm.methods import STTM
from sttm.methods.checks import check_count
from sttm.models.growing_positions import GrowingPositions
from sttm.models.halves import PromptEmbedder, SplitDecoder
from sttm.models.timing import now
from sttm.streaming import check_streamable
from sttm.video import Sampling
from sttm.video.decode import video_of_frames

if TYPE_CHECKING:
    from sttm.chat.session import VideoChat

PIECE = 16  # frames that are encoded at once
_ROUNDING = 1e-3  # of a frame's interval


class VideoStream:
    """A video in a model's cache that grows with every frame.

    Made by :meth:`VideoChat.stream`. Threads wait for one another as in other calls of the chat.

    Args:
        chat: that the model belongs to; its method is an ``STTM`` with thresholds.
        fps: frames per second that will be pushed.
        window: most frames that a merged token spans; None: any number.
        context: text to put between the video and every question.
        steps: time steps that will come, if that is known.
        processor_for: gives the processor of some number of frames; None: the chat's own.

    Raises:
        ConfigError: the method or the position policy needs the whole video, a window that is
            no count, or a context that is no text or holds a placeholder.
        UnsupportedModelError: a model whose prompt cannot grow frame by frame.
    """

    def __init__(
        self,
        chat: "VideoChat",
        *,
        fps: float = 1.0,
        window: int | None = 32,
        context: str = "",
        steps: int | None = None,
        processor_for: Callable[[int], Any] | None = None,
    ) -> None:
        method, layer = chat.method, chat.layer
        check_streamable(method, frames=steps)
        assert isinstance(method, STTM)
        assert layer is not None
        if chat.positions == "merged":
            raise ConfigError(
                "positions: got 'merged' for a stream, expected 'survived' or 'reassigned'."
            )
        self.chat = chat
        self._method, self._window = method, window
        self._sampling, self._messages = Sampling(fps=fps), opening((), (), context)
        check_messages(self._messages, chat.processor)
        if window is not None:
            check_count("window", window)
        self._embed = PromptEmbedder(chat.adapter)
        SplitDecoder(chat.adapter, layer, chat.positions)  # refuses what cannot be split
        self._layer, self._steps = layer, steps
        self._processor_for = processor_for or (lambda count: chat.processor)
        self._step = frames_per_step(chat.processor)
        self._waiting: np.ndarray[Any, Any] | None = None  # frames of a step that is not complete
        self._prompt: GrowingPrompt | None = None
        self._texts: StepTexts | None = None
        self._timestamps: list[float] = []
        self._timings = Timings()
        self._watched: PrefilledVideo | None = None

    def __len__(self) -> int:
        """Count the frames so far."""
        return len(self._timestamps)

    @property
    def tokens_in(self) -> int:
        """Video tokens so far, of complete time steps."""
        return 0 if self._prompt is None else self._prompt.tokens_in

    @property
    def tokens_out(self) -> int:
        """Merged tokens so far, those included that the next frames may still change."""
        return 0 if self._prompt is None else self._prompt.tokens_out

    def push(self, frames: np.ndarray[Any, Any], timestamps: Sequence[float] | None = None) -> None:
        """Take the next frames.

        Whatever stops it, an interrupt included, the stream holds the first ``len(stream)`` frames
        and goes on behind them.

        Args:
            frames: ``(T, H, W, 3)`` uint8 RGB, any number of them.
            timestamps: seconds of each, ascending; None: ``1 / fps`` apart, behind those before.

        Raises:
            ConfigError: no such frames or times, or frames of another number of tokens than before.
        """
        video = video_of_frames(frames, self._sampling)
        with self.chat.lock:
            shown, times = video.frames, self._next_times(len(video), timestamps)
            self._watched = None
            if self._waiting is not None:
                if self._waiting.shape[1:] != shown.shape[1:]:
                    raise _other_size(shown.shape[2:0:-1], self._waiting.shape[2:0:-1], "pixels")
                shown = np.concatenate([self._waiting, shown])
                times = self._timestamps[len(times) - len(shown) :] + times
            whole = len(shown) - len(shown) % self._step
            for start in range(0, whole, PIECE * self._step):
                end = min(start + PIECE * self._step, whole)
                prompt = self._push(shown[start:end], times[start:end], self._prompt)
                self._take(prompt, None, times[start:end])
            if whole < len(shown):  # copied: the array is the caller's
                self._take(self._prompt, shown[whole:].copy(), times[whole:])

    def _next_times(self, count: int, given: Sequence[float] | None) -> list[float]:
        """Return the seconds of the next frames, which were given or follow on those before."""
        rate, last = self._sampling.fps, self._timestamps[-1:]
        if given is None:
            first = max([len(self), *(floor(time * rate + _ROUNDING) + 1 for time in last)])
            return [(first + i) / rate for i in range(count)]
        if len(given) != count:
            raise ConfigError(
                f"timestamps: got {len(given)} for {count} frames, expected one each."
            )
        try:
            times = [float(time) for time in given]
        except (TypeError, ValueError):
            times = [float("nan")]
        if not all(a <= b < float("inf") for a, b in pairwise([0.0, *last, *times])):
            raise ConfigError(
                f"timestamps: got {[*given]} behind {last or 'none'}, expected finite seconds from "
                "0 on, none below the one before it."
            )
        return times

    def _take(
        self,
        prompt: GrowingPrompt | None,
        waiting: np.ndarray[Any, Any] | None,
        times: Sequence[float],
    ) -> None:
        """Note that frames were taken, those that waited among them, and which wait now."""
        kept = len(self) - (0 if self._waiting is None else len(self._waiting))
        timestamps = [*self._timestamps[:kept], *times]
        # Without a call in between, so that no interrupt leaves half of it.
        self._prompt, self._waiting, self._timestamps = prompt, waiting, timestamps

    def ask(self, question: str, **generate: Any) -> Answer:
        """Ask about all frames so far; see :meth:`PrefilledVideo.ask`."""
        return self.watched().ask(question, **generate)

    def watched(self) -> PrefilledVideo:
        """Return the video so far, which does not change any more: to ask, to talk about, to save.

        Raises:
            ConfigError: there were no frames.
        """
        if not self._timestamps:
            raise ConfigError("watched: got a stream without frames, expected push() first.")
        with self.chat.lock:
            if self._watched is None:
                prompt, timings = self._prompt, self._timings
                if self._waiting is not None:  # as a video that ends here is filled up
                    times = self._timestamps[-len(self._waiting) :]
                    prompt = self._push(self._waiting, times, prompt)
                assert prompt is not None
                self._watched = self._prefill_rest(prompt)
                self._timings = timings
            return self._watched

    @torch.no_grad()
    def _push(
        self, frames: np.ndarray[Any, Any], times: Sequence[float], prompt: GrowingPrompt | None
    ) -> GrowingPrompt:
        """Encode some frames, and prefill what they close; return the prompt, which is another.

        The one that was given does not change: if anything fails, it is still there.
        """
        chat, rate = self.chat, self._sampling.fps
        start = now(chat.model.device)
        if self._texts is None:
            self._texts = StepTexts(
                chat.adapter, chat.processor, chat.system, self._messages, rate, frames[:1]
            )
        video = timed_video(frames, times, rate)
        processor = self._processor_for(len(video))
        prefix, tensors = open_prompt(processor, video, chat.system, self._messages)
        inputs = model_inputs(chat.model, tensors)
        steps = 0 if prompt is None else prompt.steps
        before = self._timestamps[: steps * self._step][-self._step :]
        texts = self._texts.between(before, times, steps)
        processed = now(chat.model.device)
        features = chat.run_encoder(inputs)
        encoded = now(chat.model.device)
        with chat.reducing(None, chat.positions):
            embedded = self._embed(inputs, features)
            opened = OpenedPrompt(prefix, inputs, embedded)
            prompt = self._open(opened) if prompt is None else prompt.fork()
            here, first = embedded.span.video.grid, prompt.grid
            if (here.width, here.height) != (first.width, first.height):
                raise _other_size((here.width, here.height), (first.width, first.height), "tokens")
            prompt.push(opened, texts, self._embed.embed(torch.cat(texts)))
        self._timings = Timings(
            process=self._timings.process + processed - start,
            encode=self._timings.encode + encoded - processed,
            prefill=self._timings.prefill + now(chat.model.device) - encoded,
        )
        return prompt

    def _open(self, opened: OpenedPrompt) -> GrowingPrompt:
        """Begin the prompt around the first frames, and prefill what is in front of them."""
        chat, embedded = self.chat, opened.embedded
        layout = GrowingPositions(
            chat.adapter,
            opened.inputs,
            embedded.span,
            embedded.block,
            has_axes=self._embed.has_axes,
        )
        decoder = SplitDecoder(chat.adapter, self._layer, chat.positions)
        options = (self._method, self._window, chat.positions, self._steps)
        return GrowingPrompt(opened, layout, decoder, *options)

    @torch.no_grad()
    def _prefill_rest(self, prompt: GrowingPrompt) -> PrefilledVideo:
        """Prefill what is not final and the text behind the video, in a cache of their own."""
        chat = self.chat
        assert self._texts is not None
        start = now(chat.model.device)
        self._texts.check((*prompt.layout.texts, prompt.tail_ids), self._timestamps)
        with chat.reducing(None, chat.positions):
            cache, following = prompt.finished()
        seconds = self._timings.prefill + now(chat.model.device) - start
        last = self._timestamps[-1] + 1 / self._sampling.fps
        return PrefilledVideo(
            chat=chat,
            cache=cache,
            ids=prompt.ids,
            prefix=prompt.prefix,
            next_position=following,
            layer=chat.layer,
            positions=chat.positions,
            method=method_key(chat.method),
            tokens_in=prompt.tokens_in,
            reports=(),
            sources=(Source("", last - self._timestamps[0], tuple(self._timestamps)),),
            timings=replace(self._timings, prefill=seconds),
        )


def _other_size(got: Sequence[int], expected: Sequence[int], unit: str) -> ConfigError:
    return ConfigError(
        f"frames: got {got[0]}x{got[1]} {unit} a frame behind {expected[0]}x{expected[1]}, "
        "expected as many. Begin another stream, or scale them; a processor that spends a budget "
        "of pixels on a whole video needs as many frames at a time."
    )
