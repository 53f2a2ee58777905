"""Watch what a processor makes of frames, and lay out prompts later without the frames."""

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import BatchFeature
from transformers.video_utils import VideoMetadata

from sttm.chat import Timings, VideoChat
from sttm.chat.prompt import model_inputs
from sttm.chat.records import Encoded
from sttm.errors import UnsupportedModelError
from sttm.evaluation.features.stored import (
    EncodedFrames,
    Processed,
    metadata_values,
    without_pixels,
)
from sttm.models.adapter import note_videos
from sttm.models.transformers_api import PIXELS
from sttm.video import Video


class _Wrapped:
    """Stands in for an object: everything that is not replaced is the object's own."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class _Watched(_Wrapped):
    """A video processor that remembers what it gave last."""

    seen: Mapping[str, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._wrapped(*args, **kwargs)
        self.seen = dict(output)
        return output


class _Replayed(_Wrapped):
    """A video processor that gives what another one gave, with black pixels."""

    def __init__(self, wrapped: Any, processed: Processed) -> None:
        super().__init__(wrapped)
        self._processed = processed

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        processed = self._processed
        pixels = torch.zeros((), dtype=torch.uint8).expand(processed.shape)
        data: dict[str, Any] = {**processed.tensors, processed.pixels: pixels}
        if processed.metadata is not None:
            data["video_metadata"] = [VideoMetadata(**processed.metadata)]
        return BatchFeature(data)


class WatchedProcessor(_Wrapped):
    """A processor whose work on the latest video can be told.

    Args:
        processor: a model's processor; not changed.
    """

    def __init__(self, processor: Any) -> None:
        watched = copy.copy(processor)
        self._frames = watched.video_processor = _Watched(processor.video_processor)
        super().__init__(watched)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Process, as the processor itself does."""
        return self._wrapped(*args, **kwargs)

    def processed(self) -> Processed:
        """Return what became of the latest video, less the pixels.

        Raises:
            UnsupportedModelError: the processor gave something that cannot be stored.
        """
        tensors = dict(self._frames.seen or {})
        metadata = tensors.pop("video_metadata", None)
        names = [name for name in tensors if name in PIXELS.values()]
        if len(names) != 1 or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
            kind, given = type(self._wrapped).__name__, ", ".join(tensors) or "nothing"
            raise UnsupportedModelError(
                f"got a {kind} that gives {given} for a video, expected its pixels and other "
                "tensors. Evaluate from the videos."
            )
        shape = tuple(tensors.pop(names[0]).shape)
        values = None if metadata is None else metadata_values(metadata[0])
        return Processed(tensors, names[0], shape, values)


class _ReplayedProcessor(_Wrapped):
    """A processor that lays out prompts about one stored video."""

    def __init__(self, processor: Any, processed: Processed) -> None:
        replayed = copy.copy(processor)
        replayed.video_processor = _Replayed(processor.video_processor, processed)
        super().__init__(replayed)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = self._wrapped(*args, **kwargs)
        for name in PIXELS.values():
            inputs.pop(name, None)
        return inputs


def record(chat: VideoChat, video: Video) -> EncodedFrames:
    """Encode a video and keep all that a later prompt about it needs.

    Args:
        chat: holds the model and its processor.
        video: its sampled frames.
    """
    processor = WatchedProcessor(chat.processor)
    _, tensors = chat.open(video, processor=processor)
    features = chat.run_encoder(model_inputs(chat.model, tensors))
    known = replace(video, frames=without_pixels(video.frames.shape))
    return EncodedFrames(known, processor.processed(), features)


def replay(chat: VideoChat, frames: EncodedFrames, context: str = "") -> Encoded:
    """Do what ``chat.encode`` does, with features that are there already.

    Args:
        chat: with the model and processor that the features are of.
        frames: the features.
        context: see `sttm.VideoChat.encode`.
    """
    start = time.perf_counter()
    device = chat.model.device
    features = copy.copy(frames.features)
    for name, value in features.items():
        features[name] = _to(value, device)
    videos = [
        replace(span, tower_attention=_to(span.tower_attention, device))
        for span in frames.features.sttm_videos
    ]
    note_videos(features, videos)
    processor = _ReplayedProcessor(chat.processor, frames.processed)
    prefix, tensors = chat.open(frames.video, context, processor=processor)
    inputs = model_inputs(chat.model, tensors)
    encoded = chat.assemble(frames.video, prefix, inputs, features, Timings())
    return replace(encoded, timings=Timings(process=time.perf_counter() - start))


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return type(value)(_to(part, device) for part in value)
    return value
