"""Find the thresholds that leave a wanted share of the tokens of a user's videos on average."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sttm.chat import VideoChat
from sttm.errors import ConfigError, WriteError
from sttm.evaluation.checks import shown
from sttm.evaluation.thresholds import VideoRetention
from sttm.grid import VideoGrid
from sttm.methods import STTM, Method, VideoFeatures
from sttm.plan import MergePlan
from sttm.video import Video

STEP = 0.0001  # thresholds are multiples of this: what is printed is what is used
LOWEST, HIGHEST = -1.0, 1.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Found:
    """Where a bisection ended.

    Args:
        threshold: the spatial one.
        retention: the mean retention there.
    """

    threshold: float
    retention: float


def bisect_threshold(
    mean_retention: Callable[[float], float],
    target: float,
    *,
    low: float = LOWEST,
    high: float = HIGHEST,
    step: float = STEP,
) -> Found:
    """Find the threshold whose retention comes nearest to a target.

    A higher threshold keeps more, as a rule; where merging over time breaks it, the nearest of the
    thresholds that were tried is returned.

    Args:
        mean_retention: what a threshold leaves, in (0, 1].
        target: wanted, in (0, 1].
        low: where to begin to look.
        high: where to end.
        step: the thresholds tried are ``low`` and multiples of this above it.
    """
    bottom, top = 0, round((high - low) / step)
    tried: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in tried:
            tried[place] = mean_retention(round(low + place * step, 6))
        return tried[place]

    if at(bottom) < target < at(top):
        while top - bottom > 1:
            middle = (bottom + top) // 2
            if at(middle) > target:
                top = middle
            else:
                bottom = middle
    nearest = min(tried, key=lambda place: (abs(tried[place] - target), place))
    return Found(round(low + nearest * step, 6), tried[nearest])


class FeatureStore:
    """The tokens in front of the merging layer, a file per video; they may not fit into memory.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._grids: list[list[VideoGrid]] = []

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator["FeatureStore"]:
        """Make a store that is gone at the end of the block."""
        with tempfile.TemporaryDirectory(prefix="sttm-calibrate-") as folder:
            yield cls(Path(folder))

    def __len__(self) -> int:
        return len(self._grids)

    def add(self, seen: Sequence[tuple[torch.Tensor, VideoGrid]]) -> None:
        """Store the features of one video.

        Raises:
            WriteError: there is no room for them.
        """
        tensors = {str(place): x.cpu().contiguous() for place, (x, _) in enumerate(seen)}
        file = self._file(len(self))
        try:
            save_file(tensors, file)
        except (OSError, SafetensorError) as error:  # the latter holds what the system refused
            raise WriteError(
                f"{file}: the features of a video cannot be kept there ({error}). Make room, or "
                "set TMPDIR to a folder on another disk."
            ) from error
        self._grids.append([grid for _, grid in seen])

    def counts(self, method: STTM) -> list[tuple[int, int]]:
        """Plan every video; return tokens in and out of each."""
        return [self._count(place, method) for place in range(len(self))]

    def _count(self, place: int, method: STTM) -> tuple[int, int]:
        tensors = load_file(self._file(place))
        grids = self._grids[place]
        plans = [
            method.plan(VideoFeatures(tensors[str(part)], grid)) for part, grid in enumerate(grids)
        ]
        return sum(plan.num_in for plan in plans), sum(plan.num_out for plan in plans)

    def _file(self, place: int) -> Path:
        return self._folder / f"{place}.safetensors"


class _Recorder(Method):
    """Keeps what a method is given, and leaves one token: the layers above have nothing to do."""

    name: ClassVar[str] = "recorder"

    def __init__(self) -> None:
        self.seen: list[VideoFeatures] = []

    def plan(self, video: VideoFeatures) -> MergePlan:
        """Remember the features."""
        self.seen.append(video)
        first = torch.zeros(1, dtype=torch.long, device=video.device)
        return MergePlan.keep(first, video.grid.num_tokens)


class Recording:
    """Runs videos up to the merging layer of a model.

    Args:
        model: a supported transformers video model.
        processor: its processor.
        layer: see `sttm.attach`.

    Attributes:
        layer: the layer in force.
    """

    def __init__(self, model: Any, processor: Any, *, layer: int | None = None) -> None:
        self._recorder = _Recorder()
        self._chat = VideoChat(model, processor, self._recorder, layer=layer)
        assert self._chat.layer is not None
        self.layer: int = self._chat.layer

    def features(self, video: Video) -> list[tuple[torch.Tensor, VideoGrid]]:
        """Return the tokens ``(N, C)`` of a video in front of the layer, and their grid."""
        self._recorder.seen.clear()
        self._chat.watch(video)
        return [(video.x, video.grid) for video in self._recorder.seen]


def method_at(place: float, diagonal: float) -> STTM:
    """Build the method at one point of the line ``temporal = spatial - diagonal``.

    The line goes on where a threshold is at the end of its range: there only the other one moves.

    Args:
        place: the spatial threshold; above 1 it stays at 1, and the temporal one goes on.
        diagonal: spatial less temporal threshold.
    """
    spatial, temporal = (
        round(max(LOWEST, min(HIGHEST, value)), 6) for value in (place, place - diagonal)
    )
    return STTM(spatial_threshold=spatial, temporal_threshold=temporal)


def check_aim(target: float, diagonal: float) -> None:
    """Refuse what `calibrate` cannot look for.

    Raises:
        ConfigError: a number out of range.
    """
    numbers: tuple[Any, ...] = (target, diagonal)
    for value in numbers:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ConfigError(f"keep, diagonal: got {shown(value)}, expected numbers.")
    if not 0.0 < target <= 1.0:
        raise ConfigError(f"keep: got {shown(target)}, expected a share in (0, 1], e.g. 0.3.")
    if not 0.0 <= diagonal <= 2.0:
        raise ConfigError(f"diagonal: got {shown(diagonal)}, expected 0 to 2; published: 0.2.")


def calibrate(
    store: FeatureStore, target: float, *, diagonal: float, progress: Progress | None = None
) -> tuple[STTM, float]:
    """Find the thresholds whose mean retention over the videos comes nearest to a target.

    Every video counts the same, however long it is.

    Args:
        store: the features.
        target: in (0, 1].
        diagonal: spatial less temporal threshold.
        progress: told how many thresholds were tried, of about how many.

    Returns:
        the method, and the mean retention that it leaves.

    Raises:
        ConfigError: nothing in the store, or a number out of range.
    """
    check_aim(target, diagonal)
    if not len(store):
        raise ConfigError("calibrate: got no video, expected at least one.")
    end = HIGHEST + diagonal
    steps, tried = (round((end - LOWEST) / STEP)).bit_length() + 2, 0

    def mean_retention(place: float) -> float:
        nonlocal tried
        counts = store.counts(method_at(place, diagonal))
        tried += 1
        if progress is not None:
            progress(min(tried, steps), steps)
        return sum(kept / total for total, kept in counts) / len(counts)

    found = bisect_threshold(mean_retention, target, high=end)
    return method_at(found.threshold, diagonal), found.retention


def per_video(
    store: FeatureStore, method: STTM, names: Sequence[tuple[str, int]]
) -> list[VideoRetention]:
    """Tell what a method leaves of each video.

    Args:
        store: the features.
        method: the thresholds.
        names: file and number of frames of each video.
    """
    return [
        VideoRetention(name, frames, total, kept, round(kept / total, 6))
        for (name, frames), (total, kept) in zip(names, store.counts(method), strict=True)
    ]
