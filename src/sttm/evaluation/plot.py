"""Draw accuracy against retention: a panel per length of clip, a line per method."""

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from sttm.evaluation.files import write_bytes
from sttm.evaluation.report import Report, Row
from sttm.evaluation.specs import ALL
from sttm.evaluation.statistics import MEAN

# Okabe and Ito's colours, which the colour-blind can tell apart; with markers and dashes, so that
# more methods than colours stay distinct, and a print in grey too.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":")
_BESIDE = 0.02


def draw(report: Report, path: Path) -> None:
    """Draw the mean over tasks, with its intervals.

    Raises: ConfigError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = sorted({row.frames for row in report.rows})
    rows = [row for row in report.rows if row.task == MEAN and row.accuracy is not None]
    methods = list(dict.fromkeys(row.method for row in rows if row.method != ALL))
    figure = Figure(
        figsize=(max(4.6, 4.2 * len(lengths)), 4.2 + 0.22 * _legend_rows(methods, lengths)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for axes, frames in zip(panels, lengths):
        here = [row for row in rows if row.frames == frames]
        _draw_panel(axes, here, methods)
        axes.set_title(f"{frames} frames", fontsize=10)
        axes.set_xlabel("retention: tokens kept / tokens")
    panels[0].set_ylabel("accuracy, mean of tasks")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        columns = _legend_columns(labels, lengths)
        figure.legend(
            handles, labels, loc="outside lower center", frameon=False, fontsize=9, ncols=columns
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=140)
    write_bytes(path, picture.getvalue())


def _draw_panel(axes: Any, rows: Sequence[Row], methods: Sequence[str]) -> None:
    for row in rows:
        if row.method == ALL:
            axes.axhline(row.accuracy, color="0.35", linewidth=1.2, label="all tokens", zorder=1)
            axes.axhspan(row.ci_low, row.ci_high, color="0.5", alpha=0.15, linewidth=0)
    styles = zip(cycle(COLOURS), cycle(MARKERS), _dashes())
    for place, (method, (colour, marker, dash)) in enumerate(zip(methods, styles)):
        line = sorted((r for r in rows if r.method == method), key=lambda r: _value(r.retention))
        if not line:
            continue
        # A little beside each other, so that no interval hides another.
        shift = 1 + _BESIDE * (place - (len(methods) - 1) / 2)
        kept, accuracy = (
            [_value(r.retention) * shift for r in line],
            [_value(r.accuracy) for r in line],
        )
        axes.plot(
            kept,
            accuracy,
            dash,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.5,
            label=method,
        )
        low = [value - _value(r.ci_low) for value, r in zip(accuracy, line)]
        high = [_value(r.ci_high) - value for value, r in zip(accuracy, line)]
        axes.errorbar(
            kept, accuracy, yerr=[low, high], fmt="none", ecolor=colour, alpha=0.35, capsize=2
        )
    _scale(axes, [_value(row.retention) for row in rows])


def _legend_columns(labels: Sequence[str], lengths: Sequence[int]) -> int:
    """As many columns as fit under the panels, about 45 letters wide each."""
    longest = max((len(label) for label in labels), default=1) + 6
    return max(1, min(len(labels), 48 * len(lengths) // longest))


def _legend_rows(methods: Sequence[str], lengths: Sequence[int]) -> int:
    labels = ["all tokens", *methods]
    return -(-len(labels) // _legend_columns(labels, lengths))


def _dashes() -> Any:
    """Change the dashes every time the colours begin again."""
    return (DASHES[i // len(COLOURS) % len(DASHES)] for i in range(10**6))


def _scale(axes: Any, kept: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    # Percentages that lie well apart on a log axis; minor ticks would overlap.
    ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    low, high = min([*kept, 0.5]) * 0.8, 1.2
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _value(number: float | None) -> float:
    return float("nan") if number is None else number
