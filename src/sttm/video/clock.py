"""What the timestamps of a file say: how long it is, how fast it runs, when each frame shows."""

from dataclasses import dataclass
from fractions import Fraction

RATE_TOLERANCE = Fraction(1, 100)  # a container's rate is believed when this close to its times


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


class Clock:
    """Collects the times of packets or frames as they come, in a few numbers.

    Args:
        time_base: seconds per unit of the times that follow.
    """

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self.count = 0
        self.first: int | None = None
        self.last: int | None = None
        self._last_length = 0
        self._previous: int | None = None
        self.backwards = 0
        self.missing = 0

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
        if self._previous is not None and pts < self._previous:
            self.backwards += 1
        self._previous = pts
        self.first = pts if self.first is None else min(self.first, pts)
        if self.last is None or pts >= self.last:
            self.last, self._last_length = pts, max(length or 0, 0)

    def seconds(self, pts: int) -> float:
        """Convert a time to seconds after the first frame."""
        return float((pts - (self.first or 0)) * self.time_base)

    def span(self) -> Fraction | None:
        """Give the seconds from the first frame to the end of the last, None if unknown.

        A last frame of unknown length counts as long as the average of those before it.
        """
        if self.first is None or self.last is None or self.missing:
            return None
        ticks = Fraction(self.last - self.first)
        length = Fraction(self._last_length)
        if not length and self.count > 1:
            length = ticks / (self.count - 1)
        return (ticks + length) * self.time_base or None


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

    Returns: the rate, or None when there is neither a time nor a claim, and when several frames
        all show at the same moment: whatever the header claims, such a file lasts 0 seconds.
    """
    if clock.count > 1 and not clock.missing and clock.first == clock.last:
        return None
    claim = container_rate if container_rate and container_rate > 0 else None
    span = None if ordered and clock.backwards else clock.span()
    if span is None:
        return Rate(float(claim), float(clock.count / claim), timed=False) if claim else None
    if claim and abs(clock.count / claim - span) <= max(1 / claim, RATE_TOLERANCE * span):
        return Rate(float(claim), float(span), timed=True)
    return Rate(float(clock.count / span), float(span), timed=True)
