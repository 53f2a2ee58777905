"""A video that is watched while it comes: frames in, questions at any moment."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sttm.chat.growing import GrowingPrompt, OpenedPrompt
from sttm.chat.identity import method_key
from sttm.chat.prefilled import PrefilledVideo
from sttm.chat.prompt import model_inputs, open_prompt, opening
from sttm.chat.records import Answer, Source, Timings
from sttm.errors import ConfigError
from sttm.methods import STTM
from sttm.models.halves import PromptEmbedder, SplitDecoder
from sttm.models.timing import now
from sttm.streaming import check_streamable
from sttm.video import Sampling, Video
from sttm.video.decode import video_of_frames

if TYPE_CHECKING:
    from sttm.chat.session import VideoChat

PIECE = 16  # frames that are encoded at once


class VideoStream:
    """A video in a model's cache that grows with every frame.

    Made by :meth:`VideoChat.stream`. Threads wait for one another as in other calls of the chat.

    Args:
        chat: that the model belongs to; its method is an ``STTM`` with thresholds.
        fps: frames per second that will be pushed.
        window: most frames that a merged token spans; None: any number.
        context: text to put between the video and every question.

    Raises:
        ConfigError: the method or the position policy needs the whole video.
        UnsupportedModelError: a model whose prompt cannot grow frame by frame.
    """

    def __init__(
        self, chat: "VideoChat", *, fps: float = 1.0, window: int | None = 32, context: str = ""
    ) -> None:
        method, layer = chat.method, chat.layer
        check_streamable(method)
        assert isinstance(method, STTM)
        assert layer is not None
        if chat.positions == "merged":
            raise ConfigError(
                "positions: got 'merged' for a stream, expected 'survived' or 'reassigned'."
            )
        self.chat = chat
        self._method, self._window = method, window
        self._sampling, self._context = Sampling(fps=fps), context
        self._embed = PromptEmbedder(chat.adapter)
        self._decoder = SplitDecoder(chat.adapter, layer, chat.positions)
        self._prompt: GrowingPrompt | None = None
        self._timestamps: list[float] = []
        self._timings = Timings()
        self._watched: PrefilledVideo | None = None

    def __len__(self) -> int:
        """Count the frames so far."""
        return len(self._timestamps)

    @property
    def tokens_in(self) -> int:
        """Video tokens so far."""
        return 0 if self._prompt is None else self._prompt.tokens_in

    @property
    def tokens_out(self) -> int:
        """Merged tokens so far, those included that the next frames may still change."""
        return 0 if self._prompt is None else self._prompt.tokens_out

    def push(self, frames: np.ndarray[Any, Any], timestamps: Sequence[float] | None = None) -> None:
        """Take the next frames.

        Args:
            frames: ``(T, H, W, 3)`` uint8 RGB, any number of them.
            timestamps: seconds of each; None: ``1 / fps`` apart.

        Raises:
            ConfigError: no such frames, or frames of another number of tokens than before.
        """
        video = video_of_frames(frames, self._sampling)
        rate = self._sampling.fps
        if timestamps is None:
            timestamps = [(len(self) + i) / rate for i in range(len(frames))]
        if len(timestamps) != len(frames):
            raise ConfigError(
                f"timestamps: got {len(timestamps)} for {len(frames)} frames, expected one each."
            )
        self._watched = None
        with self.chat.lock:
            for start in range(0, len(frames), PIECE):
                piece = slice(start, start + PIECE)
                self._push(video_of_frames(video.frames[piece], self._sampling))
                self._timestamps += timestamps[piece]

    def ask(self, question: str, **generate: Any) -> Answer:
        """Ask about all frames so far; see :meth:`PrefilledVideo.ask`."""
        return self.watched().ask(question, **generate)

    def watched(self) -> PrefilledVideo:
        """Return the video so far, which does not change any more: to ask, to talk about, to save.

        Raises:
            ConfigError: there were no frames.
        """
        if self._prompt is None:
            raise ConfigError("watched: got a stream without frames, expected push() first.")
        with self.chat.lock:
            if self._watched is None:
                self._watched = self._prefill_rest(self._prompt)
            return self._watched

    @torch.no_grad()
    def _push(self, video: Video) -> None:
        """Encode some frames, and prefill what they close."""
        chat = self.chat
        start = now(chat.model.device)
        prefix, tensors = open_prompt(
            chat.processor, video, chat.system, opening((), (), self._context)
        )
        inputs = model_inputs(chat.model, tensors)
        processed = now(chat.model.device)
        features = chat.run_encoder(inputs)
        encoded = now(chat.model.device)
        with chat.reducing(None, chat.positions):
            embeddings, span = self._embed(inputs, features)
            if self._prompt is None:
                opened = OpenedPrompt(prefix, inputs["input_ids"][0].cpu(), embeddings, span)
                self._prompt = GrowingPrompt(
                    opened, self._decoder, self._method, self._window, chat.positions
                )
            self._prompt.push(embeddings[span.index])
        self._timings = Timings(
            process=self._timings.process + processed - start,
            encode=self._timings.encode + encoded - processed,
            prefill=self._timings.prefill + now(chat.model.device) - encoded,
        )

    @torch.no_grad()
    def _prefill_rest(self, prompt: GrowingPrompt) -> PrefilledVideo:
        """Prefill what is not final and the text behind the video, in a cache of their own."""
        chat, opened = self.chat, prompt.opened
        start = now(chat.model.device)
        with chat.reducing(None, chat.positions):
            cache = prompt.finished()
        seconds = self._timings.prefill + now(chat.model.device) - start
        ids = opened.grown(opened.ids, prompt.tokens_in)
        last = self._timestamps[-1] + 1 / self._sampling.fps
        return PrefilledVideo(
            chat=chat,
            cache=cache,
            ids=ids,
            prefix=replace(opened.prefix, head=opened.grown(opened.prefix.head, prompt.tokens_in)),
            next_position=len(ids),
            layer=chat.layer,
            positions=chat.positions,
            method=method_key(chat.method),
            tokens_in=prompt.tokens_in,
            reports=(),
            sources=(Source("", last - self._timestamps[0], tuple(self._timestamps)),),
            timings=replace(self._timings, prefill=seconds),
        )
