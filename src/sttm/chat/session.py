"""Conversations about videos, on one prefill each."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, StoppingCriteriaList

from sttm.attachment import Attachment, VideoReport, attach, is_attached, model_lock
from sttm.chat.measured import (
    Meter,
    generate_behind,
    generation_config,
    sequences,
    warn_beyond_context,
)
from sttm.chat.prompt import Prefix, common_length, model_inputs, open_prompt, time_instruction
from sttm.chat.records import Answer, Encoded, Source, Timings
from sttm.chat.store import load_video, method_key, save_video
from sttm.errors import ConfigError
from sttm.methods import Identity, Method
from sttm.methods.base import check_method
from sttm.models import Positions, adapter_for
from sttm.models import transformers_api as api
from sttm.video import Sampling, Video, read_video

Frames = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]


class VideoChat:
    """Ask a video model about videos, each of which is read only once.

    Args:
        model: a supported transformers video model (``sttm.models.list_models``).
        processor: its processor.
        method: the reduction; None keeps all tokens.
        layer: see :func:`sttm.attach`.
        positions: see :func:`sttm.attach`.
        system: system prompt; None for the chat template's own.

    Raises:
        ConfigError: the method depends on the question.
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
    ) -> None:
        if method is not None:
            check_method(method)
        if method is not None and method.query_aware:
            raise ConfigError(
                f"method: got {method.name!r}, which drops tokens by the question, expected one "
                "that does not: a video cannot be shared by questions then. Use attach()."
            )
        self.model = model
        self.processor = processor
        self.method = method
        self.system = system
        self.adapter = adapter_for(model)
        with (
            model_lock(self.adapter),
            attach(model, method or Identity(), layer=layer, positions=positions) as attachment,
        ):
            self.layer = None if method is None else attachment.layer
            self.positions = attachment.positions

    def watch(
        self,
        video: str | PathLike[str] | Video | Frames,
        *,
        fps: float = 1.0,
        max_frames: int = 128,
        rule: str = "llava",
        context: str = "",
        progress: Progress | None = None,
    ) -> "PrefilledVideo":
        """Decode, encode and prefill a video.

        Args:
            video: a file, frames that :func:`sttm.video.read_video` gave, or ``(T, H, W, 3)``
                uint8 RGB frames that are ``1 / fps`` seconds apart.
            fps: frames to sample per second.
            max_frames: most frames to sample.
            rule: sampling rule, see :class:`sttm.video.Sampling`.
            context: text to put between the video and every question, e.g. its subtitles.
            progress: called with (stage, done, total); stages "decode", "encode", "prefill".

        Raises:
            VideoError: the file cannot be read.
            ConfigError: an argument is out of range.
        """
        encoded = self.encode(
            video, fps=fps, max_frames=max_frames, rule=rule, context=context, progress=progress
        )
        return self.prefill(encoded, progress=progress)

    def encode(
        self,
        video: str | PathLike[str] | Video | Frames,
        *,
        fps: float = 1.0,
        max_frames: int = 128,
        rule: str = "llava",
        context: str = "",
        progress: Progress | None = None,
    ) -> Encoded:
        """Decode and encode a video: the part of :meth:`watch` in front of the language model.

        What it gives can be prefilled any number of times, by other chats with the same model too:
        to compare methods on one video, its frames need to be encoded only once. Where one of them
        asks for ``tower_attention``, that one has to encode.
        """
        tell = progress or _silent
        start = time.perf_counter()
        read = self._read(video, fps=fps, max_frames=max_frames, rule=rule, tell=tell)
        decoded = time.perf_counter()
        prefix, tensors = self.open(read, context)
        inputs = model_inputs(self.model, tensors)
        processed = time.perf_counter()
        tell("encode", 0, 1)
        features = self.run_encoder(inputs)
        timings = Timings(decoded - start, processed - decoded, self._now() - processed)
        tell("encode", 1, 1)
        return self.assemble(read, prefix, inputs, features, timings)

    def open(
        self, video: Video, context: str = "", *, processor: Any = None
    ) -> tuple[Prefix, dict[str, torch.Tensor]]:
        """Process a video and find what all prompts about it share: a first step of :meth:`encode`.

        Models whose configuration has ``add_time_instruction`` are told when the frames are, in
        front of ``context``.

        Args:
            video: its sampled frames.
            context: see :meth:`watch`.
            processor: in place of the chat's own.

        Returns:
            see ``open_prompt``.
        """
        if getattr(self.model.config, "add_time_instruction", False):
            context = time_instruction(video) + context
        return open_prompt(processor or self.processor, video, self.system, context)

    @torch.no_grad()
    def run_encoder(self, inputs: dict[str, torch.Tensor]) -> Any:
        """Run the vision tower on the model's arguments: a second step of :meth:`encode`.

        Args:
            inputs: the model's arguments; the pixels are taken out.

        Returns:
            what the model's encoder gives, and in ``sttm_videos`` the videos' grids.
        """
        reducing = self.layer is not None  # else whatever is attached may watch the tower
        with self.attached(self.layer, self.positions) if reducing else model_lock(self.adapter):
            encode = getattr(self.adapter.base, self.adapter.encoder)  # the attachment's, if any
            names = api.Signature.of(self.adapter.base, self.adapter.encoder)
            arguments = {name: value for name, value in inputs.items() if name in names}
            features = encode(**arguments, return_dict=True)
        inputs.pop(self.adapter.pixels)
        if getattr(features, "sttm_videos", None) is None:
            # As an attachment does it, so that a chat that reduces can prefill them too.
            features.sttm_videos = self.adapter.encoded(arguments, features)
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
            features: with ``sttm_videos``.
            timings: where the time went.
        """
        spans = self.adapter.spans(inputs["input_ids"].cpu(), features.sttm_videos, inputs)
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
        tell = progress or _silent
        inputs = encoded.inputs
        tell("prefill", 0, 1)
        start = self._now()
        with self.attached(self.layer, self.positions) as attachment:
            cache, following = self._prefill(inputs, encoded.features)
            reports = tuple(attachment.reports) if attachment is not None else ()
        seconds = self._now() - start
        tell("prefill", 1, 1)
        return PrefilledVideo(
            self,
            cache,
            encoded.prefix,
            ids=inputs["input_ids"][0].cpu(),
            next_position=following,
            layer=self.layer,
            positions=self.positions,
            tokens_in=encoded.tokens,
            reports=reports,
            source=encoded.source,
            timings=replace(encoded.timings, prefill=seconds),
            method=method_key(self.method),
        )

    def load(self, path: str | PathLike[str]) -> "PrefilledVideo":
        """Load a video that :meth:`PrefilledVideo.save` stored.

        A chat without a method takes a video whatever reduced it; a chat with one takes its own.

        Raises:
            SavedCacheError: the file is damaged (its checksum is compared), or its version, model,
                dtype or method is another.
        """
        return load_video(self, path)

    @contextlib.contextmanager
    def attached(self, layer: int | None, positions: str) -> Iterator[Attachment | None]:
        """Attach for the time of one call; nothing for a video that was not reduced.

        Other threads that chat with the model wait until the block ends.

        Raises:
            ConfigError: something else is attached to the model.
        """
        with model_lock(self.adapter):
            if layer is None:
                if is_attached(self.adapter):
                    raise ConfigError(
                        "got a model that something is attached to, expected a free one for a chat "
                        "that keeps all tokens. Detach first."
                    )
                yield None
                return
            method = self.method or Identity()
            with attach(self.model, method, layer=layer, positions=positions) as attachment:
                yield attachment

    def _read(self, video: Any, *, tell: Progress, **sampling: Any) -> Video:
        if isinstance(video, Video):
            return video
        if isinstance(video, np.ndarray):
            return _from_array(video, Sampling(**sampling))
        if not isinstance(video, str | PathLike):
            raise ConfigError(
                f"video: got {type(video).__name__}, expected a path, a Video that read_video() "
                "gave, or frames as an array (T, H, W, 3) of uint8. Stack a list of frames with "
                "numpy.stack()."
            )
        return read_video(video, progress=lambda i, n: tell("decode", i, n), **sampling)

    def _accepted(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what the model takes of a processor's tensors; the rest is its encoder's.

        Raises:
            IncompatibleTransformersError: a tensor that neither of them takes.
        """
        adapter = self.adapter
        models = api.Signature.of(adapter.model), api.Signature.of(adapter.base)
        accepted = {n: v for n, v in inputs.items() if any(n in each for each in models)}
        left = inputs.keys() - accepted.keys()
        unread = [
            n for n in sorted(left) if n not in api.Signature.of(adapter.base, adapter.encoder)
        ]
        if unread:
            raise api.mismatch(
                f"{', '.join(unread)} from {type(self.processor).__name__}",
                f"what {models[0].name}() or {adapter.encoder}() takes",
            )
        return accepted

    @torch.no_grad()
    def _prefill(self, inputs: Mapping[str, torch.Tensor], features: Any) -> tuple[Any, int]:
        """Fill a fresh cache; return it and the position of the next token.

        Raises:
            IncompatibleTransformersError: the model was fed something else than the prompt.
        """
        arguments = self._accepted(inputs)
        cache = DynamicCache(config=self.adapter.config)
        length = inputs["input_ids"].shape[1]
        warn_beyond_context(self.adapter.model, length, f"the video's prompt of {length} tokens")
        with Meter(self.adapter) as meter:
            self.model(
                **arguments,
                **api.features_argument(self.adapter.modality, features),
                **api.cache_argument(self.model, cache),
                use_cache=True,
                logits_to_keep=1,
            )
        if meter.tokens != [length] or cache.get_seq_length() != length:
            raise api.mismatch(
                f"a prompt of {length} tokens of which {meter.tokens} were fed to the decoder and "
                f"{cache.get_seq_length()} are in the cache",
                "all of them, once",
            )
        # The prefix ends with text, whose positions are equal on all axes.
        return cache, int(meter.all_positions()[-1][..., -1].max()) + 1

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()


class PrefilledVideo:
    """A video in the cache of a model.

    Attributes:
        tokens_in: video tokens in front of the reduction.
        reports: how each reduction went; empty if all tokens were kept.
        source: the file and the frames that were sampled.
        timings: where the time of watching went.
        prefix: what all prompts about the video begin with.
        method: the method that reduced it, with its options; None if all tokens were kept.
    """

    def __init__(
        self,
        chat: VideoChat,
        cache: Any,
        prefix: Prefix,
        *,
        ids: torch.Tensor,
        next_position: int,
        layer: int | None,
        positions: Positions,
        tokens_in: int,
        reports: tuple[VideoReport, ...],
        source: Source,
        timings: Timings,
        method: str | None,
    ) -> None:
        self.chat = chat
        self.cache = cache
        self.prefix = prefix
        self.ids = ids
        self.next_position = next_position
        self.layer = layer
        self.positions = positions
        self.tokens_in = tokens_in
        self.reports = reports
        self.source = source
        self.timings = timings
        self.method = method

    @property
    def tokens_out(self) -> int:
        """Video tokens behind the reduction."""
        return sum(r.tokens_out for r in self.reports) or self.tokens_in

    @property
    def retention(self) -> float:
        """Tokens out / tokens in."""
        return self.tokens_out / self.tokens_in

    @property
    def entries(self) -> tuple[int | None, ...]:
        """Entries that each decoder layer's cache holds; None for layers that hold a state."""
        keys = [getattr(layer, "keys", None) for layer in self.cache.layers]  # states have none
        return tuple(None if key is None else int(key.shape[-2]) for key in keys)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values in the cache."""
        layers = [layer for layer in self.cache.layers if hasattr(layer, "keys")]
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def ask(self, question: str, **generate: Any) -> Answer:
        """Ask one question, by itself; other questions are not remembered.

        Args:
            question: in words.
            generate: arguments of transformers' ``generate``; greedy with at most 128 new tokens
                unless they say otherwise. With ``return_dict_in_generate=True`` what it gives is
                ``Answer.output``, e.g. the scores.

        Raises:
            ConfigError: the question is no text or holds a placeholder of the model; prompt lookup,
                an assistant model or another cache.

        Warns:
            ContextWarning: question and answer may go beyond the model's context.
        """
        return self.conversation().ask(question, **generate)

    def conversation(self) -> "Conversation":
        """Begin a conversation that remembers its turns; any number may go on side by side."""
        return Conversation(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Store the reduced cache in one safetensors file (written to the end or not at all).

        Raises:
            WriteError: it cannot be written, or ``path`` is no regular file.
        """
        save_video(self, path)


class Conversation:
    """Turns about one video, each paying only for its own tokens.

    Attributes:
        history: (question, answer) pairs so far.
    """

    def __init__(self, video: PrefilledVideo) -> None:
        self.video = video
        self.history: list[tuple[str, str]] = []
        self._cache = video.cache
        self._ids = video.ids

    def ask(self, question: str, **generate: Any) -> Answer:
        """Ask the next question; see :meth:`PrefilledVideo.ask`."""
        with model_lock(self.video.chat.adapter):
            return self._ask(question, generate)

    def _ask(self, question: str, generate: Mapping[str, Any]) -> Answer:
        chat = self.video.chat
        ids = self.video.prefix.prompt_ids(chat.processor, self.history, question)
        cache, known = self._resume(ids)
        first = _FirstToken()
        arguments = {
            "max_new_tokens": 128,
            "do_sample": False,
            **generate,
            "stopping_criteria": StoppingCriteriaList(
                [first, *generate.get("stopping_criteria", ())]
            ),
        }
        copies = _copies(chat.adapter.model, arguments)
        if copies > 1:
            # generate() repeats the prompt for beams and samples, but not a cache it is given.
            cache.reorder_cache(torch.zeros(copies, dtype=torch.long))
        positions = torch.arange(len(ids)) + self.video.next_position - len(self.video.ids)
        start = time.perf_counter()
        with chat.attached(self.video.layer, self.video.positions):
            out, fed = generate_behind(
                chat.model,
                chat.adapter,
                cache,
                ids=ids[None],
                mask=torch.ones_like(ids)[None],
                positions=positions.clamp(min=0)[None],
                known=known,
                **arguments,
            )
        seconds = time.perf_counter() - start
        new = sequences(out)[0, len(ids) :].cpu()
        text = chat.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        self.history.append((question, text))
        if copies == 1:
            self._cache, self._ids = cache, torch.cat([ids, new[:-1]])
        more = None if isinstance(out, torch.Tensor) else out
        return Answer(text, tuple(new.tolist()), fed, first.at - start, seconds, more)

    def _resume(self, ids: torch.Tensor) -> tuple[Any, int]:
        """Fork the cache and cut it to what the new prompt shares with it."""
        known = min(common_length(self._ids, ids), len(ids) - 1)
        surplus = len(self._ids) - known
        if not surplus:
            return fork(self._cache), known
        if self._cache.is_croppable:
            cache = fork(self._cache)
            cache.crop(-surplus)
            return cache, known
        # A recurrent state cannot go back: begin again behind the video.
        return fork(self.video.cache), len(self.video.ids)


def _copies(model: Any, arguments: Mapping[str, Any]) -> int:
    """Count the rows that ``generate`` makes of one prompt."""
    config, _ = generation_config(model, arguments)
    return max(config.num_beams or 1, config.num_return_sequences or 1)


class _FirstToken:
    """Notes when the first token is there; never stops anything."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if not self.at:
            if input_ids.is_cuda:
                torch.cuda.synchronize(input_ids.device)
            self.at = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def fork(cache: Any) -> Any:
    """Copy a dynamic cache so that the copy can grow by itself; long tensors are shared.

    Growing layers never write into their tensors, they replace them; recurrent states are copied.
    """
    new = copy.copy(cache)
    new.layers = [
        copy.copy(layer) if hasattr(layer, "keys") else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return new


def _from_array(frames: Frames, sampling: Sampling) -> Video:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ConfigError(
            f"video: got an array of shape {frames.shape} and dtype {frames.dtype}, expected "
            "(T, H, W, 3) uint8 RGB with T at least 1."
        )
    indices = tuple(range(len(frames)))
    return Video(
        frames=frames,
        timestamps=tuple(i / sampling.fps for i in indices),
        indices=indices,
        duration=len(frames) / sampling.fps,
        fps=sampling.fps,
        total_frames=len(frames),
        path="",
        sampling=sampling,
    )


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
