"""One picture of a comparison: what each method loses, and which kind of question loses first."""

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from sttm.evaluation.compare.measure import Agreement
from sttm.evaluation.compare.summary import NOTHING, Row, recommend
from sttm.evaluation.plot import COLOURS, MARKERS
from sttm.evaluation.specs import ALL
from sttm.files import write_bytes

_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_FLOOR = 1e-4  # divergences below it are drawn at it


def draw_comparison(rows: Sequence[Row], path: Path) -> None:
    """Draw the divergence from the unreduced model against the share of tokens.

    Left: a line for each method, all questions; the recommended setting has a ring. Right: a line
    for each kind of question, of the recommended method. In the shade nothing measurable is lost.

    Args:
        rows: from `summarize`.
        path: of the PNG file.

    Raises:
        WriteError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    best = recommend(rows)
    reached = [row for row in rows if row.videos and row.method != ALL]
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for method, style in zip(dict.fromkeys(row.method for row in reached), _styles()):
        some = [row for row in reached if row.method == method]
        _line(left, some, [row.agreement for row in some], method, style)
    some = [row for row in reached if row.method == best.method]
    for kind, style in zip(some[0].kinds if some else (), _styles()):
        _line(right, some, [row.kinds[kind] for row in some], kind, style)
    for row in some:
        if row.keep == best.keep:
            _ring(left, row, "recommended" if best.loss != "more" else "nearest")
    left.set_title("every method, all questions", fontsize=10)
    right.set_title(f"{best.method or 'no method'}, by kind of question", fontsize=10)
    left.set_ylabel("divergence from the unreduced model (KL, nats)\nlower is better")
    for axes in (left, right):
        _scale(axes, [row.retention for row in reached])
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=140)
    write_bytes(path, picture.getvalue())


def _line(
    axes: Any,
    rows: Sequence[Row],
    values: Sequence[Agreement],
    label: str,
    style: tuple[str, str],
) -> None:
    pairs = sorted((row.retention, max(each.kl, _FLOOR)) for row, each in zip(rows, values))
    kept, heights = zip(*pairs)
    axes.plot(kept, heights, "-", color=style[0], marker=style[1], markersize=5, label=label)


def _ring(axes: Any, row: Row, label: str) -> None:
    place = [row.retention], [max(row.agreement.kl, _FLOOR)]
    look = {"markersize": 15, "markerfacecolor": "none", "markeredgecolor": "0.2"}
    axes.plot(*place, "o", label=label, **look)


def _scale(axes: Any, kept: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log", xlabel="video tokens kept")
    low = min([*kept, 0.5]) * 0.8
    axes.set_xlim(low, 1.2)
    axes.set_ylim(bottom=_FLOOR * 0.7)
    axes.axhspan(_FLOOR * 0.7, NOTHING.kl, color="0.5", alpha=0.15, linewidth=0)
    axes.text(1.1, NOTHING.kl * 0.8, "nothing measurable", ha="right", va="top", fontsize=8)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in _TICKS if low <= tick]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if kept:
        axes.legend(frameon=False, fontsize=9)


def _styles() -> Any:
    return zip(cycle(COLOURS), cycle(MARKERS))
