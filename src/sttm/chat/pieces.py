"""A video that is encoded piece by piece while its frames come, so that only features are held."""

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sttm.chat.prompt import (
    Prefix,
    frames_per_step,
    model_inputs,
    open_prompt,
    opening,
    shape_only,
)
from sttm.chat.stream import VideoStream
from sttm.errors import SttmError, UnsupportedModelError
from sttm.models.adapter import Step
from sttm.models.encoding import StepEncoder, pixel_levels
from sttm.models.timing import now
from sttm.models.transformers_api import INPUT_IDS, PIXELS
from sttm.video import Sampling, Video
from sttm.video.decode import video_of_frames
from sttm.video.passes import PIECE, Frames

if TYPE_CHECKING:
    from sttm.chat.prefilled import Conversation
    from sttm.chat.session import VideoChat


class PieceEncoder:
    """Encodes the frames of one video in pieces; what it gives is that of all frames at once.

    Whether a processor makes the same of pieces is asked from the processor itself, which is given
    frames without pixels (on the meta device): of the whole video, and of each size of piece. One
    that spends a budget of pixels on the whole video is given its share for each piece. Where the
    time steps are not the same, or the family's cannot be told apart, the frames are refused; so
    are they where a frame's pixels depend on those of other frames.

    Args:
        chat: whose model, processor and encoding are used.

    Attributes:
        has_begun: whether frames were taken.
        process_seconds: that the processor took.
        encode_seconds: that the vision tower took.
    """

    def __init__(self, chat: "VideoChat") -> None:
        self.chat = chat
        self.has_begun = False
        self.process_seconds = self.encode_seconds = 0.0
        self._encoder: StepEncoder | None = None
        self._total, self._shares = 0, False  # frames; whether pieces share a budget of pixels
        self._ids: torch.Tensor | None = None  # of a prompt about the whole video
        self._steps: list[Step] = []  # as the whole video has them, without pixels
        self._pushed = 0

    @property
    def seconds(self) -> float:
        """Time since the beginning that did not go into reading."""
        return self.process_seconds + self.encode_seconds

    def receive(self, first: int, frames: Frames, total: int) -> bool:
        """Take the next frames, see `sttm.video.passes.Album`.

        Returns:
            whether they are taken: False for a video that must be encoded as a whole.
        """
        if first == 0:
            self._begin(frames, total)
            self.has_begun = self._encoder is not None
        if self._encoder is not None:
            self._push(self._encoder, frames)
        return self.has_begun

    def finish(
        self, video: Video, context: str, behind: "Conversation | None"
    ) -> tuple[Prefix, dict[str, torch.Tensor], Any] | None:
        """Return what `VideoChat.open` and `VideoChat.run_encoder` give for the whole video.

        Args:
            video: the frames that were taken; their pixels are not read.
            context: see `VideoChat.watch`.
            behind: see `VideoChat.watch`.

        Returns:
            the prompt's prefix, the model's inputs without pixels, and the features. None: the
            video turned out to be another one than was begun; it must be encoded as a whole.
        """
        chat, start = self.chat, now(self.chat.model.device)
        processor = _without_pixels(chat.processor)
        prefix, tensors = chat.open(shape_only(video), context, processor=processor, behind=behind)
        pixels = {self._pixels: tensors.pop(self._pixels)}
        inputs = model_inputs(chat.model, tensors)
        arguments = chat.adapter.for_encoder({**inputs, **pixels})
        steps = chat.adapter.split_steps(arguments) or []
        if self._encoder is None or not self._are(steps, 0, self._pushed):
            return None
        opened = now(chat.model.device)
        with chat.encoding_frames():
            features = self._encoder.finish(arguments)
        self.process_seconds += opened - start
        self.encode_seconds += now(chat.model.device) - opened
        return prefix, inputs, features

    def _begin(self, frames: Frames, total: int) -> None:
        self._encoder, self._pushed, start = None, 0, now(self.chat.model.device)
        if total > len(frames) and self.can_split(frames, total):  # a short video needs no pieces
            with self.chat.encoding_frames() as encode:
                self._encoder = StepEncoder(
                    *(self.chat.adapter, encode, self.chat.encoding),
                    pixel_levels(self.chat.processor),
                )
        self.process_seconds += now(self.chat.model.device) - start

    def can_split(self, frames: Frames, total: int) -> bool:
        """Tell whether pieces of a video become the time steps that the whole would.

        Args:
            frames: some of it.
            total: how many there will be.
        """
        self._total, self._ids = total, None
        try:
            self._steps = self._steps_of(self.chat.processor, frames, total)
            for self._shares in (False, True):
                if all(self._fits(first, frames) for first in {0, (total - 1) // PIECE * PIECE}):
                    return bool(self._steps) and self._is_framewise(frames)
        except (SttmError, AttributeError, RuntimeError, TypeError, ValueError):
            pass  # it reads the pixels; if it fails on them, too, it says why
        return False

    def has_text_between(self) -> bool:
        """Tell whether other tokens stand between those of the video that `can_split` saw."""
        assert self._ids is not None
        places = self.chat.adapter.placeholders(self._ids)[0].nonzero().squeeze(1)
        return bool((places.diff() != 1).any())

    def depends_on_rate(self, frames: Frames) -> bool:
        """Tell whether the model is told how far apart frames are, which changes positions."""
        count = frames_per_step(self.chat.processor)
        one, three = (
            self._open(
                _without_pixels(self.chat.processor),
                shape_only(video_of_frames(frames[:1], Sampling(fps=fps)), count),
            )
            for fps in (1.0, 3.0)
        )
        return any(not torch.equal(one[name], three[name]) for name in {*one} - {self._pixels})

    def processor_for(self, count: int) -> Any:
        """Return the processor of a piece of ``count`` frames."""
        own = self.chat.processor
        if not self._shares:
            return own
        return _with_share(own, max(count, frames_per_step(own)) / self._total)

    def _fits(self, first: int, frames: Frames) -> bool:
        """Tell whether the piece that begins with a frame has the whole video's steps."""
        count = min(PIECE, self._total - first)
        steps = self._steps_of(self.processor_for(count), frames, count)
        at = first * len(self._steps) // self._total
        return self._are(steps, at, at + len(steps))

    def _is_framewise(self, frames: Frames) -> bool:
        """Tell whether grey noise and other noise become the same alone as one behind another."""
        shape = (2 * frames_per_step(self.chat.processor), *frames.shape[1:])
        noise = np.random.default_rng(0)
        grey = noise.integers(80, 160, shape, np.uint8)
        others = noise.integers(0, 256, shape, np.uint8)
        alone = self._pixel_steps(grey) + self._pixel_steps(others)
        both = self._pixel_steps(np.concatenate([grey, others]))
        return len(alone) == len(both) and all(map(torch.equal, alone, both))

    def _pixel_steps(self, frames: Frames) -> list[torch.Tensor]:
        tensors = self._open(self.processor_for(len(frames)), video_of_frames(frames, Sampling()))
        steps = self.chat.adapter.split_steps(self.chat.adapter.for_encoder(tensors)) or []
        return [step[self._pixels] for step in steps]

    def _steps_of(self, processor: Any, frames: Frames, count: int) -> list[Step]:
        """Return the time steps of ``count`` frames of a size, without pixels."""
        one = video_of_frames(frames[:1], Sampling())
        video = shape_only(one, max(count, frames_per_step(processor)))
        tensors = self._open(_without_pixels(processor), video)
        if any(value.is_meta for name, value in tensors.items() if name != self._pixels):
            return []  # it depends on the pixels
        if self._ids is None:  # the whole comes first
            self._ids = tensors[INPUT_IDS]
        return self.chat.adapter.split_steps(self.chat.adapter.for_encoder(tensors)) or []

    def _push(self, encoder: StepEncoder, frames: Frames) -> None:
        chat, start = self.chat, now(self.chat.model.device)
        video = video_of_frames(frames, Sampling())
        tensors = self._open(self.processor_for(len(frames)), video)
        arguments = chat.adapter.for_encoder(model_inputs(chat.model, tensors))
        steps = chat.adapter.split_steps(arguments) or []
        processed = now(chat.model.device)
        if not self._are(steps, self._pushed, self._pushed + len(steps)):
            self._encoder = None  # which `finish` tells
            return
        self._pushed += len(steps)
        with chat.encoding_frames():
            encoder.push(steps)
        self.process_seconds += processed - start
        self.encode_seconds += now(chat.model.device) - processed

    def _are(self, steps: Sequence[Step], start: int, end: int) -> bool:
        """Tell whether steps are some of the whole video's, as far as can be seen without pixels.

        Args:
            steps: with or without pixels.
            start: the first one of the whole video's that are meant.
            end: the first one behind them.
        """
        known = self._steps[start:end]
        return len(steps) == len(known) and all(
            a.keys() == b.keys()
            and all(
                a[name].shape == b[name].shape
                and (name == self._pixels or torch.equal(a[name].cpu(), b[name].cpu()))
                for name in a
            )
            for a, b in zip(steps, known, strict=True)
        )

    @property
    def _pixels(self) -> str:
        return self.chat.adapter.pixels

    def _open(self, processor: Any, video: Video) -> dict[str, torch.Tensor]:
        return open_prompt(processor, video, self.chat.system, opening((), (), ""))[1]


class PieceWatcher:
    """Merges and prefills the frames of one video while they come: a stream that knows its length.

    Args:
        chat: that watches.
        fps: frames per second of the sample.
        context: see `VideoChat.watch`.
        is_even: whether frames are known to be exactly ``1 / fps`` seconds apart.

    Attributes:
        stream: the video so far; None before the first frames.
        seconds: that were not spent on reading.
    """

    def __init__(self, chat: "VideoChat", fps: float, context: str, *, is_even: bool) -> None:
        if getattr(chat.model.config, "add_time_instruction", False):
            raise UnsupportedModelError(
                f"piecewise: got {type(chat.model).__name__}, which is told the times of all "
                "frames in front of its question, expected a model that is not. Leave piecewise "
                "out."
            )
        self.chat, self._is_even = chat, is_even
        self.stream: VideoStream | None = None
        self.seconds = 0.0
        self._options: Any = {"fps": fps, "context": context}

    def receive(self, first: int, frames: Frames, total: int) -> bool:
        """Take the next frames, see `sttm.video.passes.Album`.

        Raises:
            UnsupportedModelError: the processor makes something else of pieces than of the whole.
        """
        start = now(self.chat.model.device)
        if first == 0:
            pieces = PieceEncoder(self.chat)
            if not pieces.can_split(frames, total):
                raise UnsupportedModelError(
                    f"piecewise: got {type(self.chat.processor).__name__}, which makes something "
                    f"else of pieces than of all {total} frames, expected one that treats frames "
                    "alike. Leave piecewise out."
                )
            if pieces.has_text_between():
                raise UnsupportedModelError(
                    f"piecewise: got {type(self.chat.model).__name__}, whose prompt has text or "
                    "other tokens between frames, such as their times, which are known for sure at "
                    "the end of the file alone; expected one whose frames follow one another. "
                    "Leave piecewise out."
                )
            if not self._is_even and pieces.depends_on_rate(frames):
                raise UnsupportedModelError(
                    f"piecewise: got {type(self.chat.model).__name__}, whose positions depend on "
                    "how far apart the frames are, which is known for sure at the end of the file "
                    "alone; expected frames in memory at the rate of fps, or another model. Leave "
                    "piecewise out."
                )
            self.stream = VideoStream(
                self.chat,
                window=None,
                steps=-(-total // frames_per_step(self.chat.processor)),
                processor_for=pieces.processor_for,
                **self._options,
            )
        assert self.stream is not None
        self.stream.push(frames)
        self.seconds += now(self.chat.model.device) - start
        return True


class _WithoutPixels:
    """A video processor for videos without pixels, which gives black ones that take no memory."""

    def __init__(self, frames: Any) -> None:
        self._frames = frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._frames, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        output = self._frames(*args, **options)
        for name in PIXELS.values():
            if name in output:
                output[name] = torch.zeros(()).expand(output[name].shape)
        return output


def _without_pixels(processor: Any) -> Any:
    new = copy(processor)
    new.video_processor = _WithoutPixels(processor.video_processor)
    return new


def _with_share(processor: Any, share: float) -> Any:
    """Return a processor with a share of the pixels that a whole video may have."""
    frames = processor.video_processor
    size = copy(frames.size)
    for edge in ("shortest_edge", "longest_edge"):  # of some, numbers of pixels
        if size.get(edge):
            size[edge] *= share
    new = copy(processor)
    new.video_processor = copy(frames)
    new.video_processor.size = size
    return new
