"""What the timestamps of a file say: how long it is, how fast it runs, when each frame shows."""

from array import array
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

RATE_TOLERANCE = Fraction(1, 100)  # a container's rate is believed when this close to its times
JUMP_STEPS = 100  # a clock jumped only when a step is longer than this many usual ones
REORDERED = 16  # frames that a codec may show out of order: no larger step back is an order
JOINED = Fraction(1)  # seconds between two packets of sound that are still one piece

Ticks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rate:
    """Length and speed of a video.

    Args:
        fps: average frames per second.
        duration: seconds from the first frame to the end of the last.
        timed: False when the file has no usable times and frame k is taken to show at k / fps.
    """

    fps: float
    duration: float
    timed: bool


class Coverage:
    """The stretches of a file's clock for which a stream of sound holds data, in file order.

    Args:
        time_base: seconds per unit of the times that follow.
    """

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self._joined = int(JOINED / time_base)
        self._pieces: list[list[int]] = []

    def add(self, start: int, end: int) -> None:
        """Note a packet from ``start`` to ``end``, in units of ``time_base``."""
        last = self._pieces[-1] if self._pieces else None
        if last is None or not last[0] <= start <= last[1] + self._joined:
            self._pieces.append([start, max(start, end)])
        elif end > last[1]:
            last[1] = end

    @property
    def start(self) -> Fraction | None:
        """When the first packet starts, in seconds; None without any."""
        return self._pieces[0][0] * self.time_base if self._pieces else None

    def within(self, start: Fraction, end: Fraction) -> Fraction:
        """Return the seconds between ``start`` and ``end`` for which there is data."""
        first, last = start / self.time_base, end / self.time_base
        total = Fraction(0)
        for begin, stop in self._pieces:
            total += max(Fraction(0), min(last, Fraction(stop)) - max(first, Fraction(begin)))
        return total * self.time_base


@dataclass(frozen=True)
class Background:
    """What a file's other streams say about the clock of its pictures.

    Args:
        streams: its sound, and further tracks of pictures.
        jump_seconds: a longer step between two frames may be a jump of the clock.
    """

    streams: tuple[Coverage, ...] = ()
    jump_seconds: Fraction = Fraction(1800)

    @property
    def start(self) -> Fraction | None:
        """When the first of the other streams begins, in seconds; None without any."""
        return min((s.start for s in self.streams if s.start is not None), default=None)

    def is_empty(self, start: Fraction, end: Fraction) -> bool:
        """Return whether no other stream holds data for half of a stretch."""
        return all(2 * s.within(start, end) < end - start for s in self.streams)


@dataclass(frozen=True, eq=False)
class Timeline:
    """The times of all frames on one clock that does not jump.

    Args:
        ticks: ``(n,)`` units of time after the first frame, jumps taken out; n at least 1.
        jumps: ``(j,)`` the steps that were jumps, in the same units; below 0 is back.
        step: the usual step, in the same units; 0 when time never goes on.
        last_length: how long the last frame shows, in the same units; 0 when unknown.
        lead: seconds from the start of the file's clock to the first frame.
        time_base: seconds per unit.
    """

    ticks: Ticks
    jumps: Ticks
    step: int
    last_length: int
    lead: Fraction
    time_base: Fraction

    @property
    def backwards(self) -> bool:
        """Times go back, by so little that the frames would have to be in another order."""
        return bool((np.diff(self.ticks) < 0).any())

    def seconds(self) -> tuple[float, ...]:
        """Return the times of all frames, in seconds after the start of the file's clock."""
        return tuple(float(self.lead + ticks * self.time_base) for ticks in self.ticks.tolist())

    def span(self) -> Fraction | None:
        """Return the seconds from the first frame to the end of the last, None if unknown.

        A last frame of unknown length counts as long as the average of those before it.
        """
        ticks = Fraction(int(self.ticks.max() - self.ticks.min()))
        length = Fraction(self.last_length)
        if not length and len(self.ticks) > 1:
            length = ticks / (len(self.ticks) - 1)
        return (ticks + length) * self.time_base or None


class Clock:
    """Collects the times of packets or frames as they come.

    Args:
        time_base: seconds per unit of the times that follow.
        background: what the file's other streams say.
    """

    def __init__(self, time_base: Fraction, background: Background | None = None) -> None:
        self.time_base = time_base
        self.background = background or Background()
        self.count = 0
        self.missing = 0
        self._pts = array("q")
        self._lengths = array("q")

    def add(self, pts: int | None, length: int | None) -> None:
        """Note one packet or frame.

        Args:
            pts: when it shows, in units of ``time_base``; None when the file does not say.
            length: how long it shows, in the same units; 0 or None when unknown.
        """
        self.count += 1
        if pts is None:
            self.missing += 1
            return
        self._pts.append(pts)
        self._lengths.append(max(length or 0, 0))

    @property
    def stands_still(self) -> bool:
        """Several frames, all at the same moment."""
        return self.count > 1 and not self.missing and min(self._pts) == max(self._pts)

    def timeline(self, ordered: bool = True) -> Timeline | None:
        """Lay the times on one clock; None when some are missing.

        The clock jumps where neighbouring frames are farther apart than
        ``background.jump_seconds`` and `JUMP_STEPS` usual steps while no other stream holds data
        in between, or where times go back by more frames than a codec reorders. Such a step
        counts as a usual one. A long step over which the sound goes on, or among other long
        steps, is a picture that shows for long.

        Args:
            ordered: frames were noted in the order of showing; they are sorted otherwise, which
                hides steps back.
        """
        if self.missing or not self.count:
            return None
        pts: Ticks = np.array(self._pts, dtype=np.int64)
        order = np.arange(len(pts)) if ordered else np.argsort(pts, kind="stable")
        pts = pts[order]
        steps = np.diff(pts)
        step = _usual(steps)
        jumps = self._jumps(pts, steps, step)
        ticks: Ticks = np.concatenate([[0], np.cumsum(np.where(jumps, step, steps))])
        last = order[np.flatnonzero(ticks == ticks.max())[-1]]
        return Timeline(
            ticks=ticks,
            jumps=steps[jumps],
            step=step,
            last_length=self._lengths[last],
            lead=self._lead(self._seconds(pts[0]), step),
            time_base=self.time_base,
        )

    def _jumps(self, pts: Ticks, steps: Ticks, step: int) -> npt.NDArray[np.bool_]:
        jumps: npt.NDArray[np.bool_] = steps > float(self._limit(step) / self.time_base)
        for place in np.flatnonzero(jumps):
            ends = self._seconds(pts[place]), self._seconds(pts[place + 1])
            jumps[place] = self.background.is_empty(*ends)
        return jumps | (steps < -REORDERED * step) if step else jumps

    def _lead(self, first: Fraction, step: int) -> Fraction:
        start = self.background.start
        if start is None or start >= first:
            return Fraction(0)
        jumped = first - start > self._limit(step) and self.background.is_empty(start, first)
        return Fraction(0) if jumped else first - start

    def _limit(self, step: int) -> Fraction:
        return max(self.background.jump_seconds, JUMP_STEPS * step * self.time_base)

    def _seconds(self, pts: Any) -> Fraction:
        return int(pts) * self.time_base


def measure(clock: Clock, container_rate: Fraction | None, ordered: bool = True) -> Rate | None:
    """Decide how fast a video runs.

    The container's own average rate is used when the frames agree with it within one frame or
    1 %, so that constant-rate files give the published numbers to the last bit; otherwise frames
    divided by seconds, which is right for variable rates and for wrong headers.

    Args:
        clock: the times of all frames.
        container_rate: frames per second that the file claims, None if it does not.
        ordered: frames were noted in the order of showing; times that go back are then taken
            for nonsense.

    Returns:
        the rate, or None when there is neither a time nor a claim for several frames, and when they
        all show at the same moment: whatever the header claims, such a file lasts 0 seconds.
    """
    if clock.stands_still:
        return None
    claim = container_rate if container_rate and container_rate > 0 else None
    timeline = clock.timeline(ordered)
    span = None if timeline is None or (ordered and timeline.backwards) else timeline.span()
    if span is None:
        claim = claim or (Fraction(1) if clock.count == 1 else None)
        return Rate(float(claim), float(clock.count / claim), timed=False) if claim else None
    if claim and abs(clock.count / claim - span) <= max(1 / claim, RATE_TOLERANCE * span):
        return Rate(float(claim), float(span), timed=True)
    return Rate(float(clock.count / span), float(span), timed=True)


def _usual(steps: Ticks) -> int:
    """Return the lower median of the steps forward, 0 without any."""
    forward = np.sort(steps[steps > 0])
    return int(forward[(len(forward) - 1) // 2]) if len(forward) else 0
