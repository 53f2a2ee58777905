"""Read the sampled frames of a video file, and nothing more, into memory."""

import os
import warnings
from dataclasses import dataclass

import numpy as np

from sttm.errors import ConfigError, VideoError, printable
from sttm.video.clock import Rate, measure
from sttm.video.container import check_file
from sttm.video.passes import Frames, Progress, Receive, Survey, Take, survey, take
from sttm.video.pictures import picture_advice, picture_format
from sttm.video.sampling import Sampling, nominal_times

MAX_READS = 3  # with the packets' count, with the true one, and once more should damage shift it


class VideoWarning(UserWarning):
    """A video was read, but not all of it, or not as its header says."""


@dataclass(frozen=True, eq=False)
class Video:
    """The sampled frames of one file.

    Attributes:
        frames: ``(T, H, W, 3)`` uint8 RGB, upright, T at least 1.
        timestamps: when each frame shows, in seconds after the file's first frame or sound, as
            players count and subtitle files do. The first is above 0 where sound comes before
            the picture.
        indices: which frame of the file each one is, counted from 0.
        duration: seconds from the first frame of the file to the end of its last.
        fps: average frames per second of the file (not of the sample).
        total_frames: frames of the file that can be decoded.
        path: the file, as it was given.
        sampling: the rule that picked the frames.
        warnings: what is wrong with the file, in words; empty for a sound one.
    """

    frames: Frames
    timestamps: tuple[float, ...]
    indices: tuple[int, ...]
    duration: float
    fps: float
    total_frames: int
    path: str
    sampling: Sampling
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Count the sampled frames."""
        return len(self.frames)


def read_video(
    path: str | os.PathLike[str],
    *,
    fps: float = 1.0,
    max_frames: int = 128,
    rule: str = "llava",
    progress: Progress | None = None,
    warn: bool = True,
    receive: Receive | None = None,
) -> Video:
    """Decode a video file and keep the frames that a sampling rule picks.

    The packets are counted first; then every frame is decoded in order and only the picked ones
    are converted to RGB, so memory holds those and the few inside the decoder. When decoding
    gives another number of frames than the packets promised, and that number picks other frames,
    the file is decoded once more. A damaged file is decoded again on one thread, so that the
    result does not change from run to run. Pixels are not scaled; a sample aspect ratio other
    than 1 is ignored.

    Args:
        path: a local file in any format that PyAV reads.
        fps: frames to keep per second, above 0.
        max_frames: most frames to keep, at least 1.
        rule: ``"llava"``, ``"qwen"`` or ``"uniform"``, see :class:`~sttm.video.Sampling`.
        progress: called with (frames decoded, frames expected) after each decoded frame; starts
            again from 1 when the file is decoded again.
        warn: issue a :class:`VideoWarning` about a damaged file.
        receive: called with (place of the first, frames, how many are wanted) for every few frames
            as they come, which it takes by returning True; the video's own ``frames`` are then
            black and take no memory. Place 0 begins anew: what came before is void. If it returns
            False for the first ones, all are kept, as without it.

    Returns:
        the frames with their times. A damaged or truncated file gives the frames that can be
        decoded, with ``Video.warnings`` filled, whether a warning is issued or not.

    Raises:
        ConfigError: unknown rule, or a number out of its range.
        VideoError: no such file, a directory, empty, not a video, no video stream, no frame that
            can be decoded, or several frames without any time.

    Source: STTM, frame sampling of its evaluation. Differs: the frames counted are those that
        can be decoded, and a header rate that contradicts the timestamps is not believed.
    """
    sampling = Sampling(rule=rule, fps=fps, max_frames=max_frames)
    file = check_file(path, "video")
    found = survey(file)
    if not found.clock.count:
        raise VideoError(f"{path}: the video stream holds no frames. Record or download it again.")
    shot, rate, wanted = _take_until_settled(found, sampling, progress, receive)
    notes = (*found.notes, *_notes(found, shot, rate))
    if notes and warn:
        text = printable(f"{path}: {'; '.join(notes)}")
        warnings.warn(text, VideoWarning, stacklevel=2)
    indices = wanted[: len(shot.frames)]
    return Video(
        frames=shot.frames,
        timestamps=_timestamps(shot, rate, indices),
        indices=indices,
        duration=rate.duration,
        fps=rate.fps,
        total_frames=shot.clock.count,
        path=os.fspath(path),
        sampling=sampling,
        warnings=notes,
    )


def _take_until_settled(
    found: Survey, sampling: Sampling, progress: Progress | None, receive: Receive | None
) -> tuple[Take, Rate, tuple[int, ...]]:
    expected, guess = found.clock.count, found.rate()
    wanted = sampling.indices(expected, guess.fps) if guess else ()
    threads, reads = True, 0
    while True:
        shot = take(found, wanted, expected, threads, progress, receive)
        reads += 1
        expected, rate = shot.clock.count, _rate(found, shot)
        truth = sampling.indices(expected, rate.fps)
        # on several threads libav mends damage differently from run to run
        sound = not shot.errors and not shot.damaged and expected == found.clock.count
        if (truth == wanted and (sound or not threads)) or reads == MAX_READS:
            return shot, rate, wanted
        threads, wanted = sound, truth
        del shot  # its frames would be held beside the new ones


def _rate(found: Survey, shot: Take) -> Rate:
    file = found.path
    if not shot.clock.count:
        picture = picture_format(file)
        if picture:
            raise VideoError(f"{file}: {picture_advice(picture)}")
        reason = f" ({shot.errors[0]})" if shot.errors else ""
        raise VideoError(
            f"{file}: none of its {found.clock.count} frames can be decoded{reason}. "
            "Download or record it again."
        )
    rate = measure(shot.clock, found.claimed_rate)
    if rate is None:
        raise VideoError(
            f"{file}: the video lasts 0 seconds: its {shot.clock.count} frames have no times, or "
            "all the same. Expected times that grow; remux it with a frame rate."
        )
    return rate


def _notes(found: Survey, shot: Take, rate: Rate) -> tuple[str, ...]:
    notes = []
    if shot.errors:
        notes.append(
            f"damaged: {shot.clock.count} of {found.clock.count} frames can be decoded "
            f"(errors: {len(shot.errors)}, the first: {shot.errors[0]})"
        )
    packets = found.rate()
    # AVI with B-frames gives its frames times in the wrong order, but packets at a constant rate
    constant = packets is not None and packets.timed and packets.fps == rate.fps
    if not rate.timed and not constant and shot.clock.count > 1:
        notes.append(f"no usable timestamps: a constant {rate.fps:g} frames per second is assumed")
    timeline = shot.clock.timeline() if rate.timed else None
    if timeline is not None and len(timeline.jumps):
        base = float(timeline.time_base)
        far = max(abs(jump) for jump in timeline.jumps.tolist())
        notes.append(
            "no usable timestamps where the clock jumps between neighbouring frames "
            f"(times: {len(timeline.jumps)}, by up to {far * base:.1f} s): the usual step of "
            f"{timeline.step * base:.3g} s is assumed there"
        )
    return (*notes, *shot.notes)


def _timestamps(shot: Take, rate: Rate, indices: tuple[int, ...]) -> tuple[float, ...]:
    timeline = shot.clock.timeline() if rate.timed else None
    if timeline is None:
        return nominal_times(indices, rate.fps)
    seconds = timeline.seconds()
    return tuple(seconds[index] for index in indices)


def video_of_frames(frames: Frames, sampling: Sampling) -> Video:
    """Take frames that are in memory already as a sampled video.

    Args:
        frames: ``(T, H, W, 3)`` uint8 RGB, ``1 / sampling.fps`` seconds apart; not copied.
        sampling: how they were taken.

    Raises:
        ConfigError: another shape or dtype.
    """
    if not isinstance(frames, np.ndarray):
        raise ConfigError(
            f"video: got {type(frames).__name__}, expected an array (T, H, W, 3) uint8 RGB."
        )
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
