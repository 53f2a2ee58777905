"""One video as the vision tower left it, and its way to bytes and back; never pickle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from sttm.errors import VideoError
from sttm.files import in_utf8
from sttm.grid import VideoGrid
from sttm.models import VideoLayout
from sttm.models.adapter import note_videos
from sttm.models.transformers_api import ENCODER_FIELDS, EncoderOutput
from sttm.video import Sampling, Video

FORMAT: Literal[1] = 1
_KEY = "sttm"


@dataclass(frozen=True, eq=False)
class Processed:
    """What a processor made of the frames, less the pixels.

    Args:
        tensors: by name, e.g. ``video_grid_thw``.
        pixels: name of the pixels, e.g. ``pixel_values_videos``.
        shape: of the pixels.
        metadata: what the processor tells about the frames, JSON values; None if nothing.
    """

    tensors: Mapping[str, torch.Tensor]
    pixels: str
    shape: tuple[int, ...]
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class EncodedFrames:
    """Everything about a video that a prompt and a prefill need.

    Args:
        video: its facts, with frames that hold no pixels (`without_pixels`).
        processed: what the processor made of it.
        features: what the model's encoder gave, with ``sttm_videos``.
    """

    video: Video
    processed: Processed
    features: Any


def without_pixels(shape: Sequence[int]) -> Any:
    """Return black frames ``shape`` that take no memory."""
    return np.broadcast_to(np.zeros((), np.uint8), tuple(shape))


class _VideoFacts(BaseModel):
    shape: tuple[int, int, int, int]
    timestamps: tuple[float, ...]
    indices: tuple[int, ...]
    duration: float
    fps: float
    total_frames: int
    path: str
    sampling: Sampling
    warnings: tuple[str, ...]


class _Place(BaseModel):
    """A tensor by its name, or a container of others."""

    kind: Literal["tensor", "list", "tuple", "none"]
    name: str = ""
    parts: list["_Place"] = []


class _Span(BaseModel):
    grid: VideoGrid
    extra: int
    attention: bool


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    video: _VideoFacts
    processed: list[str]
    pixels: str
    pixel_shape: tuple[int, ...]
    metadata: dict[str, Any] | None
    fields: dict[str, _Place]
    videos: list[_Span]


def to_bytes(frames: EncodedFrames) -> bytes:
    """Write a video as one safetensors file, its facts in the header."""
    video, processed, features = frames.video, frames.processed, frames.features
    tensors = {f"processed.{name}": value for name, value in processed.tensors.items()}
    fields = {
        name: _take_apart(value, f"features.{name}", tensors)
        for name, value in features.items()
        if name in ENCODER_FIELDS
    }
    spans = []
    for place, span in enumerate(features.sttm_videos):
        if span.tower_attention is not None:
            tensors[f"attention.{place}"] = span.tower_attention
        attention = span.tower_attention is not None
        spans.append(_Span(grid=span.grid, extra=span.num_newlines, attention=attention))
    names = [name for name in _VideoFacts.model_fields if name not in ("shape", "path")]
    header = _Header(
        format=FORMAT,
        video=_VideoFacts(
            shape=video.frames.shape,
            path=in_utf8(video.path),
            **{name: getattr(video, name) for name in names},
        ),
        processed=list(processed.tensors),
        pixels=processed.pixels,
        pixel_shape=processed.shape,
        metadata=None if processed.metadata is None else dict(processed.metadata),
        fields=fields,
        videos=spans,
    )
    # Clones, because the parts of one tensor share their memory, which the format does not allow.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return bytes(save(own, metadata={_KEY: header.model_dump_json()}))


def from_bytes(content: bytes, path: object) -> EncodedFrames:
    """Read what `to_bytes` wrote.

    Args:
        content: of the file.
        path: the file, for the message.

    Raises:
        VideoError: something else.
    """
    try:
        header = _Header.model_validate_json(_metadata(content)[_KEY])
        tensors = load(content)
        features: Any = EncoderOutput(
            **{name: _put_together(place, tensors) for name, place in header.fields.items()}
        )
        videos = [
            VideoLayout(
                span.grid,
                span.extra,
                tower_attention=tensors[f"attention.{place}"] if span.attention else None,
            )
            for place, span in enumerate(header.videos)
        ]
        note_videos(features, videos)
        processed = {name: tensors[f"processed.{name}"] for name in header.processed}
    except (SafetensorError, ValidationError, ValueError, KeyError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise VideoError(
            f"{path}: got a file that holds no features ({first}), expected one that "
            "`sttm extract` wrote. Delete it and extract the video again."
        ) from error
    facts = dict(header.video)
    return EncodedFrames(
        Video(frames=without_pixels(facts.pop("shape")), **facts),
        Processed(processed, header.pixels, header.pixel_shape, header.metadata),
        features,
    )


def metadata_values(metadata: Any) -> dict[str, Any]:
    """Turn a processor's record of the frames into JSON values."""
    values = asdict(metadata)
    indices = values.get("frames_indices")
    if indices is not None:
        values["frames_indices"] = [int(index) for index in indices]
    return values


def _metadata(content: bytes) -> dict[str, str]:
    """Read the metadata at the beginning of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("no metadata")
    return metadata


def _take_apart(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> _Place:
    """Put the tensors of a nested value into ``tensors``; return where they went."""
    if value is None:
        return _Place(kind="none")
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return _Place(kind="tensor", name=name)
    parts = [_take_apart(part, f"{name}.{place}", tensors) for place, part in enumerate(value)]
    return _Place(kind="list" if isinstance(value, list) else "tuple", parts=parts)


def _put_together(place: _Place, tensors: Mapping[str, torch.Tensor]) -> Any:
    if place.kind == "none":
        return None
    if place.kind == "tensor":
        return tensors[place.name]
    parts = [_put_together(part, tensors) for part in place.parts]
    return parts if place.kind == "list" else tuple(parts)
