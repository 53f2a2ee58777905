"""Draw training/log/curves.png from the logs of all stages.

python -m training.curves
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from training.stages import STAGES

LOGS = Path(__file__).resolve().parent / "log"
TASK_COLOURS = {
    "digit": "tab:red",
    "colour": "tab:green",
    "quadrant": "tab:blue",
    "count": "tab:purple",
    "order": "tab:orange",
}


def entries() -> list[tuple[float, str, dict[str, Any]]]:
    """All log lines as (minutes since the start, stage, line); evaluations take the last time."""
    found, offset = [], 0.0
    for stage in STAGES:
        path, now = LOGS / f"{stage.name}.jsonl", offset
        if not path.exists():
            continue
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            now = offset + entry["seconds"] / 60 if "seconds" in entry else now
            found.append((now, stage.name, entry))
        offset = now
    return found


def draw_loss(axes: Axes, lines: list[tuple[float, str, dict[str, Any]]]) -> None:
    """Loss of each stage over time."""
    for stage in STAGES:
        points = [(t, e["loss"]) for t, name, e in lines if name == stage.name and "loss" in e]
        if points:
            axes.plot(*zip(*points, strict=True), label=stage.name)
    axes.set_yscale("log")
    axes.set_ylabel("training loss")
    axes.legend(fontsize=8, ncols=4)


def draw_accuracy(axes: Axes, lines: list[tuple[float, str, dict[str, Any]]]) -> None:
    """Held-out accuracy: of the cells while the tower is alone, then of answers at 8 frames."""
    for task, colour in TASK_COLOURS.items():
        for key, style in ((f"acc_{task}", ":"), (f"acc_{task}@8", "-"), (f"acc_{task}@32", "--")):
            points = [(t, e[key]) for t, _, e in lines if key in e]
            if points:
                label = task if style == "-" else None
                axes.plot(*zip(*points, strict=True), style, color=colour, label=label)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("minutes on two CPU cores")
    axes.set_ylabel("held-out accuracy")
    axes.set_title("dotted: cells (tower), solid: answers at 8 frames, dashed: at 32", fontsize=8)
    axes.legend(fontsize=8, ncols=5, loc="lower right")


def main() -> None:
    """Write the picture."""
    lines = entries()
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    draw_loss(above, lines)
    draw_accuracy(below, lines)
    figure.savefig(LOGS / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
