"""How the frames of a video go through the vision tower: in chunks, and what repeats only once."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sttm.errors import ConfigError, UnsupportedModelError
from sttm.models.adapter import Adapter, Step, note_videos, noted_videos
from sttm.models.patch_reuse import PatchReuse, patch_distance
from sttm.models.transformers_api import ENCODER_FIELDS, POOLED, EncoderOutput, mismatch

Encode = Callable[..., Any]


@dataclass(frozen=True)
class FrameEncoding:
    """How the frames of a video go through the vision tower.

    A time step is what the tower sees at once: a frame, or a pair of frames in the Qwen towers.
    Distances are in levels of an 8-bit picture, 0 to 255: the root mean square over the pixels of
    one patch.

    Args:
        chunk: time steps that the tower encodes at once; bounds its memory.
        dedupe: time steps of which no patch is further than this from the last encoded one take its
            features. 0: only what repeats exactly, from anywhere in the video. None: nothing.
        reuse: patches that are not further than this from their last encoded pixels keep their
            keys, values and outputs in every layer of the tower; only the others are encoded, one
            time step after another. None: all patches are encoded.

    Raises:
        ConfigError: a number out of range.
    """

    chunk: int = 8
    dedupe: float | None = 0.0
    reuse: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.chunk, int) or isinstance(self.chunk, bool) or self.chunk < 1:
            raise ConfigError(f"chunk: got {self.chunk!r}, expected a whole number from 1 on.")
        for name in ("dedupe", "reuse"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= 255):  # a NaN is not, either
                raise ConfigError(
                    f"{name}: got {value!r}, expected a distance of pixels from 0 to 255, or None."
                )


def pixel_levels(processor: Any) -> float:
    """Return how many levels of an 8-bit picture one unit of a processor's pixels is."""
    named = (getattr(processor, f"{name}_processor", None) for name in ("video", "image"))
    frames = next((part for part in named if part is not None), processor)
    levels = 1 / frames.rescale_factor if frames.do_rescale else 1.0
    return levels * sum(frames.image_std) / len(frames.image_std) if frames.do_normalize else levels


def encode_frames(
    adapter: Adapter,
    encode: Encode,
    arguments: Mapping[str, Any],
    encoding: FrameEncoding | None,
    levels: float = 255.0,
) -> Any:
    """Encode videos as `FrameEncoding` says.

    Args:
        adapter: the model's family.
        encode: the model's encoder method.
        arguments: its arguments by name.
        encoding: how; None: all frames at once, as families do whose calls cannot be split.
        levels: see `pixel_levels`.

    Returns:
        what the encoder gives, less the tower's own states; it notes the videos' grids.

    Raises:
        UnsupportedModelError: ``reuse`` or a threshold of ``dedupe``, which this family lacks.
    """
    steps = None if encoding is None else adapter.split_steps(arguments)
    if encoding is None or not steps:
        if encoding is not None and (encoding.reuse is not None or encoding.dedupe):
            raise UnsupportedModelError(
                f"got {type(adapter.model).__name__} for dedupe or reuse with a threshold, "
                "expected a model whose frames are encoded one by one. Leave both out."
            )
        output = encode(**arguments, return_dict=True)
        note_videos(output, noted_videos(output) or adapter.encoded(arguments, output))
        return output
    encoder = StepEncoder(adapter, encode, encoding, levels)
    encoder.push(steps)
    return encoder.finish(arguments)


class StepEncoder:
    """Encodes time steps as they come: what they are and in which calls is up to `FrameEncoding`.

    Pixels are held of less than one chunk, and of the last encoded step where it is compared with.

    Args:
        adapter: the model's family, whose calls can be split.
        encode: the model's encoder method.
        encoding: how.
        levels: see `pixel_levels`.

    Raises:
        UnsupportedModelError: ``reuse``, which this family lacks.
    """

    def __init__(
        self, adapter: Adapter, encode: Encode, encoding: FrameEncoding, levels: float
    ) -> None:
        self._adapter, self._encode, self._levels = adapter, encode, levels
        self._encoding, reuse = encoding, encoding.reuse
        self._reuse = None if reuse is None else PatchReuse(adapter, reuse / levels)
        self._places: list[int] = []  # for each step the one that is encoded in its stead
        self._seen: dict[bytes, int] = {}
        self._last: tuple[int, Step] | None = None  # that was or will be encoded
        self._waiting: dict[int, Step] = {}
        self._features: dict[int, _Features] = {}

    def push(self, steps: Iterable[Step]) -> None:
        """Take the next time steps, and encode each chunk that is complete."""
        chunk = self._encoding.chunk if self._reuse is None else 1
        with self._reuse or contextlib.nullcontext():
            for place, step in enumerate(steps, len(self._places)):
                found = self._same_as(place, step)
                self._places.append(found)
                if found == place:
                    self._waiting[place] = step
                if len(self._waiting) == chunk:
                    self._encode_waiting()

    def finish(self, arguments: Mapping[str, Any]) -> Any:
        """Encode the rest, and return what the encoder gives for all steps in one call.

        Args:
            arguments: of that call, by name; its pixels may be on the meta device.
        """
        if self._waiting:
            self._encode_waiting()
        return _join(self._adapter, arguments, [self._features[place] for place in self._places])

    def _encode_waiting(self) -> None:
        steps = list(self._waiting.values())
        if self._reuse is None or self._reuse.start(steps[0]):
            new = list(_encode_chunk(self._encode, steps))
        else:  # nothing has changed
            new = [self._features[max(self._features)]]
        self._features.update(zip(self._waiting, new))
        self._waiting = {}

    def _same_as(self, place: int, step: Step) -> int:
        """Return the time step that is encoded in this one's stead; itself or an earlier one."""
        threshold = self._encoding.dedupe
        if threshold is None:
            return place
        digest = _digest(step)
        found = self._seen.setdefault(digest, place)
        if found < place or not threshold:
            return found
        if self._last is not None:
            last, before = self._last
            distance = patch_distance(self._adapter, before, step)
            if distance is not None and bool((distance * self._levels <= threshold).all()):
                self._seen[digest] = last
                return last
        self._last = place, step
        return place


@dataclass(frozen=True, eq=False)
class _Features:
    """One encoded time step.

    Args:
        levels: by field of the output ``(n, C)`` tensors, of several layers in some.
        attention: ``(n,)`` float32, see `VideoLayout`; None unless a method reads it.
        apart: whether the encoder gives the videos' features apart, in a tuple.
    """

    levels: dict[str, list[torch.Tensor]]
    attention: torch.Tensor | None
    apart: bool


def _encode_chunk(encode: Encode, steps: Sequence[Step]) -> Iterator[_Features]:
    output = encode(
        **{name: torch.cat([step[name] for step in steps]) for name in steps[0]}, return_dict=True
    )
    # Where no step is a video of its own, no attention is read, either.
    attention = [video.tower_attention for video in noted_videos(output) or ()]
    # As attributes: a model may set one that its tower's kind of output does not list.
    fields: dict[str, Any] = {name: getattr(output, name, None) for name in ENCODER_FIELDS}
    if fields[POOLED] is None:
        raise mismatch(f"an encoder's output without {POOLED}", "the features there")
    given = {name: value for name, value in fields.items() if value is not None}
    for place in range(len(steps)):
        levels = {
            name: [value[place]] if name == POOLED else [level[place] for level in value]
            for name, value in given.items()
        }
        own = attention[place] if len(attention) == len(steps) else None
        yield _Features(levels, own, apart=isinstance(given[POOLED], tuple))


def _join(adapter: Adapter, arguments: Mapping[str, Any], steps: Sequence[_Features]) -> Any:
    """Put the features of all time steps together as the encoder gives them."""
    joined: dict[str, Any] = {
        name: [
            adapter.join_steps(arguments, [step.levels[name][i] for step in steps])
            for i in range(len(first))
        ]
        for name, first in steps[0].levels.items()
    }
    pooled = joined.pop(POOLED)[0]
    joined[POOLED] = tuple(pooled) if steps[0].apart else pooled
    output = EncoderOutput(**joined)
    videos, queue = adapter.encoded(arguments, output), iter(steps)
    for place, video in enumerate(videos):
        own = [next(queue).attention for _ in range(video.grid.frames)]
        if own[0] is not None:
            attention = torch.cat([each for each in own if each is not None])
            videos[place] = replace(video, tower_attention=attention)
    note_videos(output, videos)
    return output


def _digest(step: Step) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for tensor in step.values():
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()
