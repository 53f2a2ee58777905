"""Draw accuracy against retention: a panel per task, a line per method."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from sttm.evaluation.specs import ALL
from sttm.files import write_bytes

# Okabe and Ito's colours, which the colour-blind can tell apart; with markers and dashes, so that
# more methods than colours stay distinct, and a print in grey too.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":")
_BESIDE = 0.02


@dataclass(frozen=True)
class Point:
    """A place in a panel; see `sttm.evaluation.report.RunRow`."""

    method: str
    retention: float | None
    accuracy: float | None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Panel:
    """What is drawn side by side.

    Args:
        title: above it.
        points: one of method "all" becomes a level line.
        beside: points without intervals, drawn hollow in the colour of their method.
    """

    title: str
    points: Sequence[Point]
    beside: Sequence[Point] = ()


def draw_panels(panels: Sequence[Panel], path: Path, title: str) -> None:
    """Draw accuracy against retention.

    Args:
        panels: from left to right.
        path: of the PNG file.
        title: of the vertical axis.

    Raises:
        WriteError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    every = [point for panel in panels for point in (*panel.points, *panel.beside)]
    methods = list(dict.fromkeys(point.method for point in every if point.method != ALL))
    labels = ["all tokens", *methods, *(["published"] if any(p.beside for p in panels) else [])]
    figure = Figure(
        figsize=(max(4.6, 4.2 * len(panels)), 4.2 + 0.22 * _legend_rows(labels, len(panels))),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for place, panel in zip(axes, panels):
        _draw_panel(place, panel, methods)
        place.set_title(panel.title, fontsize=10)
        place.set_xlabel("retention: tokens kept / tokens")
        handles.update(zip(*reversed(place.get_legend_handles_labels())))
    axes[0].set_ylabel(title)
    if handles:
        columns = _legend_columns(list(handles), len(panels))
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            frameon=False,
            fontsize=9,
            ncols=columns,
        )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=140)
    write_bytes(path, picture.getvalue())


def _draw_panel(axes: Any, panel: Panel, methods: Sequence[str]) -> None:
    rows = panel.points
    for row in rows:
        if row.method == ALL:
            axes.axhline(row.accuracy, color="0.35", linewidth=1.2, label="all tokens", zorder=1)
            ends = _value(row.ci_low), _value(row.ci_high)
            axes.axhspan(*ends, color="0.5", alpha=0.15, linewidth=0)
    styles = zip(cycle(COLOURS), cycle(MARKERS), _dashes())
    for place, (method, style) in enumerate(zip(methods, styles)):
        line = sorted((r for r in rows if r.method == method), key=lambda r: _value(r.retention))
        hollow = [point for point in panel.beside if point.method == method]
        # A little beside each other, so that no interval hides another.
        shift = 1 + _BESIDE * (place - (len(methods) - 1) / 2)
        if line:
            _draw_line(axes, line, style, shift)
        _draw_hollow(axes, hollow, style)
    _scale(axes, [_value(row.retention) for row in (*rows, *panel.beside)])


def _draw_line(axes: Any, line: Sequence[Point], style: tuple[str, str, str], shift: float) -> None:
    colour, marker, dash = style
    kept = [_value(point.retention) * shift for point in line]
    accuracy = [_value(point.accuracy) for point in line]
    axes.plot(
        kept,
        accuracy,
        dash,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.5,
        label=line[0].method,
    )
    low = [value - _value(point.ci_low) for value, point in zip(accuracy, line)]
    high = [_value(point.ci_high) - value for value, point in zip(accuracy, line)]
    axes.errorbar(
        kept, accuracy, yerr=[low, high], fmt="none", ecolor=colour, alpha=0.35, capsize=2
    )


def _draw_hollow(axes: Any, points: Sequence[Point], style: tuple[str, str, str]) -> None:
    for point in points:
        axes.plot(
            [_value(point.retention)],
            [_value(point.accuracy)],
            linestyle="none",
            marker=style[1],
            markersize=7,
            markerfacecolor="none",
            color=style[0],
            label="published",
        )


def _legend_columns(labels: Sequence[str], panels: int) -> int:
    """As many columns as fit under the panels, about 45 letters wide each."""
    longest = max((len(label) for label in labels), default=1) + 6
    return max(1, min(len(labels), 48 * panels // longest))


def _legend_rows(labels: Sequence[str], panels: int) -> int:
    return -(-len(labels) // _legend_columns(labels, panels))


def _dashes() -> Any:
    """Change the dashes every time the colours begin again."""
    return (DASHES[i // len(COLOURS) % len(DASHES)] for i in range(10**6))


def _scale(axes: Any, kept: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    # Percentages that lie well apart on a log axis; minor ticks would overlap.
    ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    low, high = min([*kept, 0.5]) * 0.8, 1.2
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _value(number: float | None) -> float:
    return float("nan") if number is None else number
