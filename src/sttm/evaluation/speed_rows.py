"""The language model's part of a speed benchmark: medians, and ratios to all tokens."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sttm.evaluation.shapes import WORDS_AFTER, WORDS_BEFORE, Shape
from sttm.evaluation.specs import ALL_TOKENS, Keep, Setting


@dataclass(frozen=True)
class Run:
    """One measured prefill and a few decoding steps; seconds and bytes."""

    ttft: float
    merge: float
    per_token: float
    kv_bytes: int
    peak_extra: int | None
    peak_total: int | None
    tokens_out: int
    forced: bool


@dataclass(frozen=True)
class SpeedRow:
    """Medians over the repeats for one setting.

    Args:
        frames: sampled frames.
        method: label; "all" for all tokens.
        keep: the budget.
        tokens_in, tokens_out: video tokens.
        own_count: whether the method's own plan was used; False: forced to the count.
        merge_s: deciding on the plan, and on masks and positions; part of ``ttft_s``.
        ttft_s: the language model's first forward, merging included, vision tower excluded.
        ttft_min_s, ttft_max_s: the fastest and the slowest repeat.
        decode_s: per further token.
        kv_mib: keys and values after the prefill and the decoded tokens.
        peak_mib: most memory during prefill and decoding, beyond weights and features.
        peak_total_mib: with them.
        ttft_ratio: TTFT / TTFT with all tokens.
        ideal_ratio: the same of floating-point operations, without merging.
        share_of_ideal: ideal ratio / ratio: 1 is as fast as the operations allow.
    """

    frames: int
    method: str
    keep: Keep | None
    tokens_in: int
    tokens_out: int
    own_count: bool
    merge_s: float
    ttft_s: float
    ttft_min_s: float
    ttft_max_s: float
    decode_s: float
    kv_mib: float
    peak_mib: float | None
    peak_total_mib: float | None
    ttft_ratio: float
    ideal_ratio: float
    share_of_ideal: float


def speed_row(
    shape: Shape, frames: int, layer: int, setting: Setting, runs: dict[Setting, list[Run]]
) -> SpeedRow:
    """Take medians, and compare with all tokens."""
    own, whole = runs[setting], runs[ALL_TOKENS]
    kept = own[0].tokens_out
    ratio = _median(own, "ttft") / _median(whole, "ttft")
    ideal = _ideal(shape, frames, layer, kept)
    times = [run.ttft for run in own]
    return SpeedRow(
        frames=frames,
        method=setting.label,
        keep=setting.keep,
        tokens_in=shape.video_tokens(frames),
        tokens_out=kept,
        own_count=not own[0].forced,
        merge_s=round(_median(own, "merge"), 6),
        ttft_s=round(_median(own, "ttft"), 6),
        ttft_min_s=round(min(times), 6),
        ttft_max_s=round(max(times), 6),
        decode_s=round(_median(own, "per_token"), 6),
        kv_mib=round(own[0].kv_bytes / 2**20, 2),
        peak_mib=_mib([run.peak_extra for run in own]),
        peak_total_mib=_mib([run.peak_total for run in own]),
        ttft_ratio=round(ratio, 4),
        ideal_ratio=round(ideal, 4),
        share_of_ideal=round(ideal / ratio, 3),
    )


def _ideal(shape: Shape, frames: int, layer: int, kept: int) -> float:
    """Operations of a prefill that merges at the layer, over those of one that does not."""
    words = WORDS_BEFORE + WORDS_AFTER + (shape.family == "llava_onevision")
    short, length = words + kept, words + shape.video_tokens(frames)
    below, above = shape.operations(length, layer), shape.operations(short, shape.layers - layer)
    return (below + above) / shape.operations(length, shape.layers)


def _median(runs: Sequence[Run], name: str) -> float:
    return float(statistics.median(getattr(run, name) for run in runs))


def _mib(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known) / 2**20, 1) if known else None
