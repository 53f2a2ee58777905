"""Conversations about videos, on one prefill each."""

import contextlib
import copy
import inspect
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch

from sttm.chat.identity import method_key
from sttm.chat.measured import CachedPrompt, prefill_prompt, warn_beyond_context
from sttm.chat.pieces import PieceEncoder, PieceWatcher
from sttm.chat.prefilled import Conversation, PrefilledVideo
from sttm.chat.prompt import (
    Messages,
    Prefix,
    Turn,
    model_inputs,
    open_prompt,
    opening,
    part_of,
    sampled_rate,
    time_instruction,
)
from sttm.chat.records import Encoded, Source, Timings
from sttm.chat.saved_video import load_state
from sttm.chat.shown import Shown, as_video, shown_in_order
from sttm.chat.stream import VideoStream
from sttm.errors import ConfigError
from sttm.methods import Identity, Method
from sttm.methods.base import check_method
from sttm.models import adapter_for
from sttm.models.adapter import noted_videos
from sttm.models.encoding import FrameEncoding, encode_frames, pixel_levels
from sttm.models.hooks import ModelHooks, Reduction
from sttm.models.timing import now
from sttm.models.versions import warn_if_untested
from sttm.video import Video, read_video
from sttm.video.passes import PIECE, Receive

Progress = Callable[[str, int, int], None]


class VideoChat:
    """Ask a video model about videos, each of which is read only once.

    The model's hooks are in place from here to :meth:`close`, or to the end of a ``with`` block, or
    until nothing refers to the chat and its videos; between calls of the chat they do nothing.

    Args:
        model: a supported transformers video model (``sttm.models.list_models``).
        processor: its processor.
        method: the reduction; None keeps all tokens.
        layer: see :func:`sttm.attach`.
        positions: see :func:`sttm.attach`.
        system: system prompt; None for the chat template's own.
        reader: decodes files in place of :func:`sttm.video.read_video`, with its arguments.
        encoding: how frames go through the vision tower, see `sttm.FrameEncoding`. The default:
            in chunks, and those that repeat exactly once.

    Raises:
        ConfigError: the method depends on the question, or something is attached to the model.
        UnsupportedModelError: unknown model.

    Threads may share a model, its chats, videos and conversations: watching and asking wait for one
    another, model by model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: Method | None = None,
        *,
        layer: int | None = None,
        positions: str = "auto",
        system: str | None = None,
        reader: Callable[..., Video] = read_video,
        encoding: FrameEncoding | None = None,
    ) -> None:
        if method is not None:
            check_method(method)
        if method is not None and (
            method.query_aware
            or "prompt_attention" in method.requires
            or method.decode_pruning is not None
        ):
            raise ConfigError(
                f"method: got {method.name!r}, which drops tokens by the question, expected one "
                "that does not: a video cannot be shared by questions then. Use attach()."
            )
        warn_if_untested()
        self.model = model
        self.processor = processor
        self.method = method
        self.system = system
        self.encoding = encoding or FrameEncoding()
        self._reader = reader
        self.adapter = adapter_for(model)
        self._hooks = ModelHooks.hold(self.adapter)
        self._release = weakref.finalize(self, self._hooks.release)
        self._release.atexit = False
        try:
            self._hooks.refuse_attached()
            config = self._hooks.configure(method or Identity(), layer, positions)
        except BaseException:
            self.close()
            raise
        self.layer = None if method is None else config.layer
        self.positions = config.positions

    def close(self) -> None:
        """Take the hooks off the model; the chat and its videos cannot be asked any more.

        Harmless when called again. Other chats with the model go on.
        """
        with self.lock:  # not in the middle of another thread's call
            self._release()

    def __enter__(self) -> "VideoChat":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def lock(self) -> Any:
        """The reentrant lock that all chats with the model wait for."""
        return self._hooks.lock

    def watch(
        self,
        video: Shown | Sequence[Shown | Turn],
        *,
        fps: float = 1.0,
        max_frames: int = 128,
        rule: str = "llava",
        context: str = "",
        progress: Progress | None = None,
        behind: "Conversation | None" = None,
        piecewise: bool = False,
    ) -> "PrefilledVideo":
        """Decode, encode and prefill a video, or several.

        Args:
            video: a file, frames that :func:`sttm.video.read_video` gave, or ``(T, H, W, 3)``
                uint8 RGB frames that are ``1 / fps`` seconds apart. Or a list of them in the order
                in which they are shown, with ``(question, answer)`` pairs between them for what
                was said. Each video is reduced by itself, behind those in front of it. An empty
                list: a conversation in words alone.
            fps: frames to sample per second, of each.
            max_frames: most frames to sample, of each.
            rule: sampling rule, see :class:`sttm.video.Sampling`.
            context: text to put between the (last) video and every question, e.g. its subtitles.
            progress: called with (stage, done, total); stages "decode", "encode", "prefill".
            behind: a conversation that the video follows on; what it has in its cache is not read
                again. None: the video comes first. See :meth:`Conversation.watch`.
            piecewise: merge and prefill the video while it is read, so that not even its features
                lie in memory at once. For one video, and an STTM with thresholds or with
                ``piece``; up to rounding, keys and values are the same. There are no ``reports``.

        Raises:
            VideoError: a file cannot be read.
            ConfigError: an argument is out of range, or ``behind`` is of a chat that reduces
                videos otherwise.
            UnsupportedModelError: the chat template changes what was shown when more follows, or a
                recurrent state would have to go back.
        """
        sampling: dict[str, Any] = {"fps": fps, "max_frames": max_frames, "rule": rule}
        steps = shown_in_order(video)
        if piecewise:
            if len(steps) != 1 or behind is not None:
                raise ConfigError(
                    f"piecewise: got {len(steps)} videos and turns"
                    f"{'' if behind is None else ' behind a conversation'}, expected one video "
                    "alone. Leave piecewise out."
                )
            return self._watch_piecewise(steps[0], context, progress or (lambda *_: None), sampling)
        if behind is not None and not steps:
            raise ConfigError("video: got none behind a conversation, expected at least one.")
        if behind is not None:
            behind = copy.copy(behind)  # to whose history is added what is said between the videos
            behind.history = [*behind.history]
        elif not steps or isinstance(steps[0], tuple):
            watched = self._begin("" if steps else context)
            behind = watched.conversation()
        for place, step in enumerate(steps, 1):
            if isinstance(step, tuple):
                assert behind is not None
                behind.history.append(step)
                continue
            words = context if place == len(steps) else ""
            encoded = self.encode(step, **sampling, context=words, progress=progress, behind=behind)
            watched = self.prefill(encoded, progress=progress)
            behind = watched.conversation()
        return watched

    def _watch_piecewise(
        self, video: Shown, context: str, tell: Progress, sampling: dict[str, Any]
    ) -> "PrefilledVideo":
        found = as_video(video, **sampling)  # a file tells at its end how far apart its frames are
        is_even = isinstance(found, Video) and sampled_rate(found) == sampling["fps"]
        watcher = PieceWatcher(self, sampling["fps"], context, is_even=is_even)
        start = time.perf_counter()
        read = self._read(video, tell=tell, receive=watcher.receive, **sampling)
        decode = time.perf_counter() - start - watcher.seconds
        assert watcher.stream is not None
        tell("prefill", 0, 1)
        watched = watcher.stream.watched()
        tell("prefill", 1, 1)
        length = len(watched.ids)
        warn_beyond_context(self.model, length, f"the video's prompt of {length} tokens")
        source = Source(read.path, read.duration, read.timestamps, read.warnings)
        timings = replace(watched.timings, decode=decode)
        return replace(watched, sources=(source,), timings=timings)

    def encode(
        self,
        video: Shown,
        *,
        fps: float = 1.0,
        max_frames: int = 128,
        rule: str = "llava",
        context: str = "",
        progress: Progress | None = None,
        behind: "Conversation | None" = None,
    ) -> Encoded:
        """Decode and encode a video: the part of :meth:`watch` in front of the language model.

        What it gives can be prefilled any number of times, by other chats with the same model too:
        to compare methods on one video, its frames need to be encoded only once. Where one of them
        asks for ``tower_attention``, that one has to encode.
        """
        if behind is not None:
            behind.check_chat(self)
        tell = progress or (lambda *_: None)
        start = time.perf_counter()
        sampling: dict[str, Any] = {"fps": fps, "max_frames": max_frames, "rule": rule}
        pieces = PieceEncoder(self)
        read = self._read(video, tell=tell, receive=pieces.receive, **sampling)
        decoded = time.perf_counter() - start - pieces.seconds
        tell("encode", 0, 1)
        made = pieces.finish(read, context, behind) if pieces.has_begun else None
        timings = Timings(decoded, pieces.process_seconds, pieces.encode_seconds)
        if made is None:
            if pieces.has_begun:  # its frames may have been given away
                read = self._read(video, tell=tell, **sampling)
            made, timings = self._encode_whole(read, context, behind, timings)
        prefix, inputs, features = made
        tell("encode", 1, 1)
        encoded = self.assemble(read, prefix, inputs, features, timings)
        return replace(encoded, behind=copy.copy(behind))  # which may go on before the prefill

    def _encode_whole(
        self, video: Video, context: str, behind: "Conversation | None", before: Timings
    ) -> tuple[tuple[Prefix, dict[str, torch.Tensor], Any], Timings]:
        """Open the prompt and encode all frames; return that, and what the time adds up to."""
        start = now(self.model.device)
        prefix, tensors = self.open(video, context, behind=behind)
        inputs = model_inputs(self.model, tensors)
        processed = now(self.model.device)
        features = self.run_encoder(inputs)
        took = Timings(process=processed - start, encode=now(self.model.device) - processed)
        return (prefix, inputs, features), before + took

    def open(
        self,
        video: Video,
        context: str = "",
        *,
        processor: Any = None,
        behind: "Conversation | None" = None,
    ) -> tuple[Prefix, dict[str, torch.Tensor]]:
        """Process a video and find what all prompts about it share: a first step of :meth:`encode`.

        Models whose configuration has ``add_time_instruction`` are told when the frames are, in
        front of ``context``.

        Args:
            video: its sampled frames.
            context: see :meth:`watch`.
            processor: in place of the chat's own.
            behind: see :meth:`watch`.

        Returns:
            see ``open_prompt``.
        """
        if getattr(self.model.config, "add_time_instruction", False):
            context = time_instruction(video) + context
        before, messages = None, opening((), (), context)
        if behind is not None:
            before = behind.video.prefix
            messages = opening(before.messages, behind.turns, context)
        return open_prompt(processor or self.processor, video, self.system, messages, before)

    @contextlib.contextmanager
    def encoding_frames(self) -> Iterator[Callable[..., Any]]:
        """Yield the model's encoder method, for a block that other threads wait for."""
        reducing = self.layer is not None  # else whatever is attached may watch the tower
        with self.reducing(self.layer, self.positions) if reducing else self.lock, torch.no_grad():
            yield getattr(self.adapter.base, self.adapter.encoder)  # the attachment's, if any

    def run_encoder(self, inputs: dict[str, torch.Tensor], *, split: bool = True) -> Any:
        """Run the vision tower on the model's arguments: a second step of :meth:`encode`.

        Args:
            inputs: the model's arguments; the pixels are taken out.
            split: encode as the chat's ``encoding`` says; False: all frames in one call.

        Returns:
            what the model's encoder gives, which notes the videos' grids.
        """
        with self.encoding_frames() as encode:
            arguments = self.adapter.for_encoder(inputs)
            how = self.encoding if split else None
            levels = pixel_levels(self.processor)
            features = encode_frames(self.adapter, encode, arguments, how, levels)
        inputs.pop(self.adapter.pixels)
        return features

    def assemble(
        self,
        video: Video,
        prefix: Prefix,
        inputs: dict[str, torch.Tensor],
        features: Any,
        timings: Timings,
    ) -> Encoded:
        """Put together what :meth:`open` and :meth:`run_encoder` gave: the last step.

        Args:
            video: the frames.
            prefix: of the prompt.
            inputs: the model's arguments, without pixels.
            features: that :meth:`run_encoder` gave.
            timings: where the time went.
        """
        videos = noted_videos(features) or []
        spans = self.adapter.spans(inputs["input_ids"].cpu(), videos, inputs)
        return Encoded(
            prefix,
            inputs,
            features,
            tokens=sum(len(span.index) for row in spans for span in row),
            source=Source(video.path, video.duration, video.timestamps, video.warnings),
            timings=timings,
        )

    def prefill(self, encoded: Encoded, *, progress: Progress | None = None) -> "PrefilledVideo":
        """Reduce and prefill a video that :meth:`encode` gave: the other part of :meth:`watch`."""
        return self._prefill(encoded, (encoded.source,), progress)

    def _prefill(
        self, encoded: Encoded, sources: tuple[Source, ...], progress: Progress | None = None
    ) -> "PrefilledVideo":
        tell = progress or (lambda *_: None)
        tell("prefill", 0, 1)
        start = now(self.model.device)
        ids, inputs, cached = self._resume(encoded)
        # Words alone are one forward pass, which need not wait for videos that are being watched.
        alone = bool(sources)
        with self.reducing(self.layer, self.positions, alone=alone) as reduction:
            cache, following = prefill_prompt(
                self.model, self.adapter, self.processor, inputs, encoded.features, cached
            )
            reports = tuple(reduction.reports) if reduction is not None else ()
        seconds = now(self.model.device) - start
        tell("prefill", 1, 1)
        before = None if encoded.behind is None else encoded.behind.video
        timings = replace(encoded.timings, prefill=seconds)
        reports = (*(before.reports if before else ()), *reports)
        return PrefilledVideo(
            chat=self,
            cache=cache,
            ids=ids,
            prefix=encoded.prefix,
            next_position=following,
            layer=self.layer if reports else None,  # words alone are not reduced
            positions=self.positions,
            method=method_key(self.method),
            tokens_in=encoded.tokens + (before.tokens_in if before else 0),
            reports=reports,
            sources=(*(before.sources if before else ()), *sources),
            timings=timings + before.timings if before else timings,
        )

    def _resume(
        self, encoded: Encoded
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], CachedPrompt | None]:
        """Return the ids of a whole prompt, what of its inputs has to be fed, and behind what."""
        new, behind = encoded.inputs["input_ids"][0].cpu(), encoded.behind
        if behind is None:
            return new, encoded.inputs, None
        behind.check_chat(self)
        head = behind.video.prefix.head
        ids = torch.cat([head, new])
        cache, known = behind.resume(ids)
        position = behind.video.next_position + known - len(behind.video.ids)
        parts = encoded.inputs.items()
        inputs = {name: part_of(v, len(new), start=known - len(head)) for name, v in parts}
        return ids, inputs, CachedPrompt(cache, known, position)

    def _begin(self, context: str) -> "PrefilledVideo":
        """Prefill the beginning of a conversation without a video."""
        messages: Messages = ((context,),)
        prefix, tensors = open_prompt(self.processor, None, self.system, messages)
        inputs = model_inputs(self.model, tensors)
        return self._prefill(Encoded(prefix, inputs, None, 0, Source("", 0.0, ()), Timings()), ())

    def stream(
        self, *, fps: float = 1.0, window: int | None = 32, context: str = ""
    ) -> "VideoStream":
        """Begin to watch a video that is still coming; see docs/streaming.md.

        Args:
            fps: frames per second that will be pushed.
            window: most frames that a merged token spans: none waits longer before it is final.
                None: any number.
            context: see :meth:`watch`.

        Raises:
            ConfigError: the chat's method or position policy needs the whole video.
            UnsupportedModelError: a model whose prompt cannot grow frame by frame.
        """
        return VideoStream(self, fps=fps, window=window, context=context)

    def load(self, path: str | PathLike[str]) -> "PrefilledVideo":
        """Load a video that :meth:`PrefilledVideo.save` stored.

        A chat without a method takes a video whatever reduced it; a chat with one takes its own.

        Raises:
            SavedCacheError: the file is damaged (its checksum is compared), or its version, model,
                dtype or method is another.
        """
        state = load_state(self.adapter, self.method, path)
        return PrefilledVideo(chat=self, **vars(state))

    @contextlib.contextmanager
    def reducing(
        self, layer: int | None, positions: str, *, alone: bool = True
    ) -> Iterator[Reduction | None]:
        """Put the chat's method in force for the time of one call.

        Args:
            layer: of the video that the call is about; None if it was not reduced.
            positions: its position policy.
            alone: whether other threads that chat with the model wait until the block ends; False
                for forward passes that may run beside those of others.

        Raises:
            ConfigError: something is attached to the model, or the chat is closed.
        """
        with self.lock if alone else contextlib.nullcontext():
            if not self._release.alive:
                raise ConfigError("got a closed chat, expected an open one. Make a new VideoChat.")
            config = None
            if layer is not None:
                config = self._hooks.configure(self.method or Identity(), layer, positions)
            with self._hooks.reducing(config, alone=alone) as reduction:
                yield reduction

    def _read(
        self, video: Any, *, tell: Progress, receive: Receive | None = None, **sampling: Any
    ) -> Video:
        """Decode a video, and hand its frames over; a reader that can does not keep them."""
        found = as_video(video, **sampling)
        if not isinstance(found, Video):
            if receive is not None and "receive" in inspect.signature(self._reader).parameters:
                sampling["receive"], receive = receive, None
            found = self._reader(found, progress=lambda i, n: tell("decode", i, n), **sampling)
        for first in range(0, len(found), PIECE):
            some = found.frames[first : first + PIECE]
            if receive is None or not receive(first, some, len(found)):
                break
        return found
