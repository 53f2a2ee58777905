"""Which frames of a video are looked at: pure rules over frame counts, no files and no pixels.

Source: STTM, section 4.1 (one frame per second, at most 128 or 180 of them); the rounding is that
of the LLaVA-Video and Qwen2-VL readers that its evaluation uses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sttm.errors import ConfigError, unknown_name

QWEN_FACTOR = 28  # pixels per side of one Qwen2-VL token: patch 14, merged 2 x 2
QWEN_FRAME_STEP = 2  # frames that share one temporal patch
QWEN_MIN_PIXELS = 128 * QWEN_FACTOR**2
QWEN_MAX_PIXELS = 768 * QWEN_FACTOR**2
QWEN_TOTAL_PIXELS = 128000 * QWEN_FACTOR**2 * 0.9
QWEN_MAX_RATIO = 200


@dataclass(frozen=True)
class Sampling:
    """A rule that picks frames, with its numbers.

    Args:
        rule: ``"llava"``, ``"qwen"`` or ``"uniform"``, see :func:`llava_indices`,
            :func:`qwen_indices` and :func:`uniform_indices`.
        fps: frames to pick per second of video, above 0. ``"uniform"`` ignores it.
        max_frames: most frames to pick, at least 1. ``"qwen"`` picks one more when this is odd.

    Raises:
        ConfigError: unknown rule, or a number out of its range.
    """

    rule: str = "llava"
    fps: float = 1.0
    max_frames: int = 128

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown_name("sampling rule", self.rule, RULES)
        _check_positive("fps", self.fps)
        _check_count("max_frames", self.max_frames)

    def indices(self, total_frames: int, source_fps: float) -> tuple[int, ...]:
        """Pick frames of a video of ``total_frames`` frames that runs at ``source_fps``.

        Args:
            total_frames: frames in the file, at least 1.
            source_fps: average frames per second of the file, above 0.

        Returns:
            frame numbers in [0, total_frames), ascending, at least one; equal neighbours appear
            when ``fps`` is above ``source_fps`` and where ``"qwen"`` pads.

        Raises:
            ConfigError: a number is out of range.
        """
        if self.rule == "uniform":
            return uniform_indices(total_frames, self.max_frames)
        if self.rule == "qwen":
            return qwen_indices(total_frames, source_fps, self.fps, self.max_frames)
        return llava_indices(total_frames, source_fps, self.fps, self.max_frames)


RULES = ("llava", "qwen", "uniform")


def llava_indices(
    total_frames: int, source_fps: float, fps: float, max_frames: int
) -> tuple[int, ...]:
    """Pick every ``source_fps / fps``-th frame, rounded up, and always the last one.

    Ten seconds at one frame per second are therefore 11 frames. Above ``max_frames`` the frames
    are spread evenly from the first to the last instead, rounded down.

    Args:
        total_frames: frames in the file, at least 1.
        source_fps: average frames per second of the file, above 0.
        fps: frames wanted per second, above 0. Above ``source_fps`` frames repeat.
        max_frames: most frames to return, at least 1.

    Returns:
        frame numbers, ascending, ``1 <= len <= max_frames``; the last is ``total_frames - 1``
        unless ``max_frames`` is 1, which gives frame 0.

    Raises:
        ConfigError: a number is out of range.
    """
    _check_count("total_frames", total_frames)
    _check_positive("source_fps", source_fps)
    _check_positive("fps", fps)
    _check_count("max_frames", max_frames)
    last = total_frames - 1
    interval = source_fps / fps
    # Counted before anything is listed: fps may be enormous.
    before_last = math.ceil(last / interval) if interval > 0 else math.inf
    if before_last > max_frames:
        return _spread(last, max_frames)
    picked = [math.ceil(step * interval) for step in range(int(before_last))]
    if picked[-1:] != [last]:
        picked.append(last)
    return tuple(picked) if len(picked) <= max_frames else _spread(last, max_frames)


def qwen_indices(
    total_frames: int, source_fps: float, fps: float, max_frames: int
) -> tuple[int, ...]:
    """Pick as :func:`llava_indices` does, then repeat the last frame up to an even count.

    Args and Raises: as :func:`llava_indices`.

    Returns:
        an even number of frame numbers, ascending; ``max_frames + 1`` of them at most when
        ``max_frames`` is odd.
    """
    picked = llava_indices(total_frames, source_fps, fps, max_frames)
    return picked + (total_frames - 1,) * (-len(picked) % QWEN_FRAME_STEP)


def uniform_indices(total_frames: int, max_frames: int) -> tuple[int, ...]:
    """Spread ``min(max_frames, total_frames)`` frames evenly from the first to the last.

    Args:
        total_frames: frames in the file, at least 1.
        max_frames: frames wanted, at least 1.

    Returns:
        frame numbers, strictly ascending, rounded down.

    Raises:
        ConfigError: a number is out of range.
    """
    _check_count("total_frames", total_frames)
    _check_count("max_frames", max_frames)
    return _spread(total_frames - 1, min(max_frames, total_frames))


def smart_resize(height: int, width: int, frames: int) -> tuple[int, int]:
    """Return the size to which Qwen2-VL's video reader scales frames before the processor.

    Both sides become multiples of 28 pixels, close to the aspect ratio, with an area that leaves
    at most 768 tokens per two frames, and fewer once ``frames`` frames would pass 115200 tokens.

    Args:
        height: pixels, at least 1.
        width: pixels, at least 1.
        frames: frames sampled from the video, at least 1 (the padded count of ``"qwen"``).

    Returns:
        ``(height, width)`` in pixels; ``height * width / 784`` tokens per two frames.

    Raises:
        ConfigError: a number below 1, or one side over 200 times the other.

    Source: Qwen2-VL, ``qwen_vl_utils.smart_resize`` and ``fetch_video``. Differs: a side never
        shrinks below 28 (the first published version gave 0 for very long, thin videos).
    """
    _check_count("height", height)
    _check_count("width", width)
    _check_count("frames", frames)
    if max(height, width) > QWEN_MAX_RATIO * min(height, width):
        raise ConfigError(
            f"got frames of {width}x{height} pixels, expected one side to be at most "
            f"{QWEN_MAX_RATIO} times the other. Crop the video."
        )
    most = max(
        min(QWEN_MAX_PIXELS, QWEN_TOTAL_PIXELS / frames * QWEN_FRAME_STEP),
        int(QWEN_MIN_PIXELS * 1.05),
    )
    rows, columns = (max(1, round(side / QWEN_FACTOR)) for side in (height, width))
    area = rows * columns * QWEN_FACTOR**2
    if area > most:
        scale = math.sqrt(height * width / most)
        rows, columns = (max(1, math.floor(side / scale / QWEN_FACTOR)) for side in (height, width))
    elif area < QWEN_MIN_PIXELS:
        scale = math.sqrt(QWEN_MIN_PIXELS / (height * width))
        rows, columns = (math.ceil(side * scale / QWEN_FACTOR) for side in (height, width))
    return rows * QWEN_FACTOR, columns * QWEN_FACTOR


def nominal_times(indices: Sequence[int], source_fps: float) -> tuple[float, ...]:
    """Return the time of each frame number on a clock that ticks ``source_fps`` times a second.

    This is what the published prompts print; :attr:`sttm.video.Video.timestamps` are the times
    that the file itself gives, which differ in a variable-rate file.

    Args:
        indices: frame numbers, each at least 0.
        source_fps: average frames per second of the file, above 0.

    Returns:
        seconds, one per index.

    Raises:
        ConfigError: ``source_fps`` is not above 0.
    """
    _check_positive("source_fps", source_fps)
    return tuple(index / source_fps for index in indices)


def _spread(last: int, count: int) -> tuple[int, ...]:
    return tuple(int(index) for index in np.linspace(0, last, count, dtype=np.int64))


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"got {name}={value}, expected a finite number above 0.")


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"got {name}={value!r}, expected a whole number of at least 1.")
