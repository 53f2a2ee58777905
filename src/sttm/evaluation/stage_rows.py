"""The rows and the picture of the way from a file to the first token."""

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm.evaluation.plot import COLOURS
from sttm.evaluation.shapes import Shape
from sttm.evaluation.stages import STAGES, Rates, StageRow, least
from sttm.files import write_bytes

if TYPE_CHECKING:
    from sttm.evaluation.speed_rows import SpeedRow

_WAY = ("decode", "processor", "tower", "merge", "prefill")
Measured = Mapping[str, Mapping[str, float | None]]


def stage_rows(
    shape: Shape,
    rows: "Sequence[SpeedRow]",
    front: Sequence[Measured],
    *,
    rates: Rates,
    itemsize: int,
    layer: int,
) -> list[StageRow]:
    """Put the stages in front of the decoder and those of each setting together.

    Args:
        shape: the model.
        rows: of the language model, at one number of frames.
        front: see `FrontBench.run`, a measurement per repeat.
        rates: of the machine.
        itemsize: bytes of a number.
        layer: the merging layer.
    """
    frames = rows[0].frames
    found: list[StageRow] = []

    def add(stage: str, seconds: float, peak: float | None, kept: int = 0, **more: Any) -> None:
        cost = least(stage, shape, frames, itemsize, kept, layer)
        found.append(
            StageRow(
                stage,
                frames,
                more.get("method"),
                more.get("keep"),
                seconds=round(seconds, 6),
                per_frame_s=round(seconds / frames, 6),
                floor_s=None if cost is None else round(cost.seconds(rates), 9),
                peak_mib=peak,
                patches=more.get("share"),
            )
        )

    for stage in STAGES:
        own = [each[stage] for each in front]
        peaks = [value for each in own if (value := each["peak"]) is not None]
        peak = round(statistics.median(peaks) / 2**20, 1) if peaks else None
        add(stage, _median(own, "seconds"), peak, share=own[0].get("share"))
    taken = {row.stage: row.seconds for row in found}
    before = taken["decode"] + taken["processor"]
    for row in rows:
        own_setting = {"method": row.method, "keep": row.keep}
        add("merge", row.merge_s, None, row.tokens_out, **own_setting)
        add("prefill", row.ttft_s - row.merge_s, row.peak_mib, row.tokens_out, **own_setting)
        for name, tower in (("first token", "tower"), ("first token reuse", "tower reuse")):
            way = before + taken[tower] + row.ttft_s
            add(name, way, None, row.tokens_out, **own_setting)
    return found


def _median(values: Sequence[Mapping[str, float | None]], name: str) -> float:
    return statistics.median(value for each in values if (value := each[name]) is not None)


def draw_stages(rows: Sequence[StageRow], path: Path, title: str) -> None:
    """Draw a stacked bar per setting, with the whole tower and with the one that reuses patches.

    Args:
        rows: of one number of frames.
        path: of the PNG file.
        title: above it.

    Raises:
        WriteError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    front = {row.stage: row for row in rows if row.method is None}
    settings = list(dict.fromkeys((row.method, row.keep) for row in rows if row.method is not None))
    bars = [(setting, tower) for setting in settings for tower in ("tower", "tower reuse")]
    figure = Figure(figsize=(8.0, 1.6 + 0.38 * len(bars)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, ((method, keep), tower) in enumerate(bars):
        of_setting = {r.stage: r for r in rows if (r.method, r.keep) == (method, keep)}
        left = 0.0
        for stage, colour in zip(_WAY, COLOURS):
            row = of_setting.get(stage) or front[tower if stage == "tower" else stage]
            label = stage if not place else None
            axes.barh(place, row.seconds, left=left, color=colour, label=label)
            left += row.seconds
        axes.text(left, place, f" {left:.2f} s", va="center", fontsize=8)
    names = [
        ("all tokens" if keep is None or keep == 1.0 else f"{method} {keep}")
        + ("" if tower == "tower" else ", still patches reused")
        for (method, keep), tower in bars
    ]
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds from the file to the first token")
    axes.set_title(title, fontsize=10)
    axes.legend(ncols=len(_WAY), fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.08))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_bytes(path, picture.getvalue())
