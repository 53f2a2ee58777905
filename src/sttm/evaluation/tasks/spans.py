"""Temporal grounding: spans of seconds in what a model wrote, and how they count."""

import re
from typing import NamedTuple

from sttm.errors import ConfigError
from sttm.evaluation.tasks.items import Item

# 1:02:03.5, 2:03 or 12.5; no digits of a longer word.
_TIME = r"(?<![\w.:])(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,9}(?:\.\d{1,9})?)(?![\d:]|\.\d)"
_SPAN = re.compile(rf"{_TIME}\s*(?:s|sec\w*)?\s*(?:to|until|till|and|-|–|—|,)\s*{_TIME}")


class Span(NamedTuple):
    """From when until when; seconds."""

    start: float
    end: float


def read_span(text: str) -> Span | None:
    """Read the span of seconds that a text tells.

    Args:
        text: with times as seconds ("12.5"), "2:03" or "1:02:03".

    Returns:
        the last two times with "to", "and" or a dash between them; else the first two times; of a
        single one a span without length. None where there is no time, or the second one is earlier.
    """
    joined = _SPAN.findall(text)
    parts = [joined[-1][:3], joined[-1][3:]] if joined else re.findall(_TIME, text)[:2]
    times = [3600 * int(h or 0) + 60 * int(m or 0) + float(s) for h, m, s in parts]
    return Span(times[0], times[-1]) if times and times[0] <= times[-1] else None


def parse_span(text: str, item: Item) -> str | None:
    """Read the answer to a question about a span; as ``item.answer`` if it is the same span."""
    span = read_span(text)
    if span is None or (item.answer is not None and span == read_span(item.answer)):
        return span and item.answer
    return f"{span.start:.10g} to {span.end:.10g}"


def score_span(rule: str, found: Span, expected: Span) -> float:
    """Score a span.

    Args:
        rule: "iou", intersection over union; "iou>=LIMIT", whether that is at least the limit;
            "start<=LIMIT" and "end<=LIMIT", whether it starts or ends at most that many seconds
            beside the expected one.
        found: what a model said.
        expected: the right one.

    Returns:
        from 0 to 1.
    """
    what, limit = _parts(rule)
    if what in ("start", "end"):
        return float(abs(getattr(found, what) - getattr(expected, what)) <= limit)
    shared = min(found.end, expected.end) - max(found.start, expected.start)
    union = max(found.end, expected.end) - min(found.start, expected.start)
    iou = max(shared, 0.0) / union if union else 1.0
    return iou if not limit else float(iou >= limit)


def check_rule(rule: str) -> str:
    """Return a rule of `score_span`.

    Raises:
        ConfigError: it is none.
    """
    _parts(rule)
    return rule


def _parts(rule: str) -> tuple[str, float]:
    match = re.fullmatch(r"iou|iou>=(0\.\d+|1)|(?:start|end)<=(\d+(?:\.\d+)?)", rule)
    if match is None:
        raise ConfigError(
            f"score: got {rule!r}, expected iou, iou>=0.5, start<=1 or end<=1, with any limit."
        )
    return re.split("[<>]", rule)[0], float(match[1] or match[2] or 0)
