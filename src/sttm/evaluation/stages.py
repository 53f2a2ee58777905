"""From a file to the first token, stage by stage: what each takes, and the least it can take."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sttm.evaluation.memory import peak_memory
from sttm.evaluation.shapes import Shape, build_tower, count_parameters, video_processor
from sttm.models import adapter_for
from sttm.models.encoding import FrameEncoding, encode_frames, pixel_levels
from sttm.models.timing import now
from sttm.models.transformers_api import Signature
from sttm.video import read_video, write_video

REUSE = 8.0  # levels; see `FrameEncoding`
STAGES = ("decode", "processor", "tower", "tower reuse")
_RATE, _SIZE = 10, (360, 640)  # of the made video: frames per second, rows and columns
_WHOLE = 2  # time steps on which the whole tower is timed
_COPIED = 2**26  # numbers that are copied to measure the bandwidth
_SIDE = 2048  # of the matrices that are multiplied to measure the rate of operations

Encode = Callable[..., Any]


@dataclass(frozen=True)
class Cost:
    """The least work of a stage.

    Args:
        operations: floating-point operations.
        nbytes: read from and written to memory, each once.
    """

    operations: float
    nbytes: float

    def seconds(self, rates: "Rates") -> float:
        """How long that takes at least."""
        return max(self.operations / rates.operations, self.nbytes / rates.nbytes)


@dataclass(frozen=True)
class Rates:
    """What a machine can do in a second, measured on one large matrix product and one copy.

    Args:
        operations: floating-point operations.
        nbytes: read and written.
    """

    operations: float
    nbytes: float


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure the best of a few matrix products and copies."""
    matrix = torch.randn(_SIDE, _SIDE, device=device).to(dtype)
    source = torch.zeros(_COPIED, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    product = min(_times(lambda: matrix @ matrix, device))
    copy = min(_times(lambda: target.copy_(source), device))
    return Rates(2 * _SIDE**3 / product, 2 * source.nbytes / copy)


def _times(call: Callable[[], Any], device: torch.device) -> Iterator[float]:
    for _ in range(4):
        start = now(device)
        call()
        yield now(device) - start


def least(
    stage: str, shape: Shape, frames: int, itemsize: int, kept: int, layer: int
) -> Cost | None:
    """Return the least work of a stage; None where nothing tells, as of decoding a file.

    Args:
        stage: of `STAGES`, "merge" or "prefill".
        shape: the model.
        frames: sampled frames.
        itemsize: bytes of a number.
        kept: video tokens behind the reduction.
        layer: in front of which videos are reduced.
    """
    steps, tokens = shape.steps(frames), shape.video_tokens(frames)
    tower, features = shape.tower, tokens * shape.hidden * itemsize
    values = frames * 3 * tower.image[0] * tower.image[1]
    if stage == "processor":  # a multiplication and an addition per value, which comes as a byte
        return Cost(2 * values, values * (1 + itemsize))
    if stage == "tower":
        read = (tower.parameters() + values) * itemsize
        return Cost(steps * tower.operations(), read + features)
    if stage == "merge":  # the cosines along one axis; features are read once, and the kept written
        return Cost(2 * tokens * shape.hidden, features * (1 + kept / tokens))
    if stage == "prefill":
        below, above = shape.operations(tokens, layer), shape.operations(kept, shape.layers - layer)
        weights = (count_parameters(shape) - shape.vocabulary * shape.hidden) * itemsize
        return Cost(below + above, weights + shape.kv_bytes(kept, itemsize))
    return None


class FrontBench:
    """The way in front of the decoder: a file, a processor and a vision tower of a shape.

    Args:
        shape: the model.
        video: the file; its frames are sampled at 1 per second.
        device: where the tower lies.
        dtype: of its weights and of the pixels.
    """

    def __init__(self, shape: Shape, video: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._shape, self._video, self._dtype = shape, video, dtype
        self._processor: Any = video_processor(shape)
        self._model = build_tower(shape, device, dtype)
        self._adapter = adapter_for(self._model)

    @torch.no_grad()
    def run(self, frames: int) -> dict[str, dict[str, float | None]]:
        """Measure every stage once.

        Returns:
            by stage, ``seconds`` for all frames and ``peak``, the most bytes beyond what was there
            before; of "tower reuse" also ``share``, that of the patches which were encoded.
        """
        found: dict[str, dict[str, float | None]] = {}
        with self._measured(found, "decode"):
            read = read_video(self._video, fps=1.0, max_frames=frames)
        with self._measured(found, "processor"):
            tensors = self._processor(
                videos=[read.frames], do_sample_frames=False, return_tensors="pt"
            )
        names = Signature.of(self._adapter.base, self._adapter.encoder)
        given = {n: v.to(self._model.device) for n, v in tensors.items() if n in names}
        given[self._adapter.pixels] = given[self._adapter.pixels].to(self._dtype)
        steps = self._adapter.split_steps(given) or []
        whole = min(_WHOLE, len(steps))
        few = {name: torch.cat([step[name] for step in steps[:whole]]) for name in steps[0]}
        with self._measured(found, "tower"):
            self._encode(few, FrameEncoding(chunk=1, dedupe=None))
        seconds = found["tower"]["seconds"] or 0.0
        found["tower"]["seconds"] = seconds * len(steps) / whole
        seen: list[int] = []
        last: Any = self._adapter.tower_layers()[-1]
        hook = last.mlp.register_forward_pre_hook(
            lambda mlp, args: seen.append(args[0].shape[:-1].numel())
        )
        with self._measured(found, "tower reuse"):
            self._encode(given, FrameEncoding(reuse=REUSE))
        hook.remove()
        found["tower reuse"]["share"] = sum(seen) / (len(steps) * self._shape.tower.patches)
        return found

    def _encode(self, arguments: dict[str, torch.Tensor], encoding: FrameEncoding) -> None:
        encode = getattr(self._adapter.base, self._adapter.encoder)
        levels = pixel_levels(self._processor)
        encode_frames(self._adapter, encode, arguments, encoding, levels)

    @contextmanager
    def _measured(self, found: dict[str, dict[str, float | None]], stage: str) -> Iterator[None]:
        device = self._model.device
        with peak_memory(device) as peak:
            start = now(device)
            yield
            seconds = now(device) - start
        found[stage] = {"seconds": seconds, "peak": peak.extra}


@contextmanager
def still_camera(frames: int) -> Iterator[Path]:
    """Write a video of ``frames`` seconds in which a square crosses a noisy room."""
    rows, columns = _SIZE
    random = np.random.default_rng(0)
    room = np.kron(random.integers(40, 200, (9, 16, 3)), np.ones((40, 40, 1))).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        total = frames * _RATE
        pictures = np.empty((total, rows, columns, 3), np.uint8)
        for number, picture in enumerate(pictures):
            noise = random.integers(-4, 5, (rows, columns, 1), dtype=np.int16)
            picture[:] = np.clip(room + noise, 0, 255)
            left = number * (columns - 80) // total
            picture[140:220, left : left + 80] = (230, 40, 40)
        yield write_video(pictures, Path(folder) / "still.mp4", _RATE)


@dataclass(frozen=True)
class StageRow:
    """One stage of the way from a file to the first token; medians over the repeats.

    Args:
        stage: of `STAGES`, "merge", "prefill" (without merging) or "first token" (the whole way),
            "first token reuse" (the whole way with the tower that reuses still patches).
        frames: sampled frames.
        method, keep: the setting; None in front of the decoder.
        seconds: for all frames.
        per_frame_s: of one.
        floor_s: the least that the operations and the bytes allow on this machine; None if nothing
            tells.
        peak_mib: most memory beyond what was there before; of the decoder, prefill and decoding.
        patches: share of the patches that went through the tower; None for other stages.
    """

    stage: str
    frames: int
    method: str | None
    keep: Any
    seconds: float
    per_frame_s: float
    floor_s: float | None
    peak_mib: float | None
    patches: float | None = None
