"""Write the rows of a run: JSON, CSV, Markdown and a plot."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sttm.budget import written_keep
from sttm.evaluation.plot import draw
from sttm.evaluation.report import Difference, Report, Row
from sttm.evaluation.specs import ALL, Keep
from sttm.evaluation.statistics import MEAN
from sttm.evaluation.tables import Cells, csv_text, ends, markdown_table, percent
from sttm.files import write_json, write_text

FORMAT = 1
_COLUMNS = tuple(field.name for field in fields(Row))


def write_results(folder: Path, report: Report, header: Mapping[str, Any]) -> list[Path]:
    """Write ``results.json``, ``results.csv``, ``results.md`` and ``accuracy.png``.

    Args:
        folder: an existing folder.
        report: the rows.
        header: how they came about; goes into the JSON as it is.

    Returns:
        the files.

    Raises:
        WriteError: one of them cannot be written.
    """
    files = [folder / name for name in ("results.json", "results.csv", "results.md")]
    write_json(files[0], {"format": FORMAT, **header, **asdict(report)}, compact=True)
    write_text(
        files[1], csv_text(_COLUMNS, [asdict(row) for row in (*report.rows, *report.by_kind)])
    )
    write_text(files[2], markdown(report, header))
    files.append(folder / "accuracy.png")
    draw(report, files[-1])
    return files


def table(
    report: Report, frames: int, kind: str = MEAN, *, per_task: bool = True
) -> tuple[Cells, list[Cells]]:
    """Lay out the rows about clips of one length, for people; in percent.

    Args:
        report: the rows.
        frames: length of the clips.
        kind: of the scenes; "all" for all of them.
        per_task: with a column per task.

    Returns:
        the columns, and a line per setting.
    """
    rows = report.rows if kind == MEAN else report.by_kind
    here = [row for row in rows if (row.frames, row.kind) == (frames, kind)]
    differences = {
        (d.method, d.keep): d
        for d in report.differences
        if (d.frames, d.kind, d.against, d.task) == (frames, kind, ALL, MEAN)
    }
    to_all = any(row.method == ALL for row in here) and kind == MEAN
    columns = ["method", "keep", "retention", *report.tasks * per_task, "mean of tasks"]
    columns += ["less all tokens"] * to_all
    lines = []
    for method, keep in dict.fromkeys((row.method, row.keep) for row in here):
        own = [row for row in here if (row.method, row.keep) == (method, keep)]
        line = [method, "-" if keep is None else written_keep(keep), percent(own[0].retention)]
        line += [percent(row.accuracy) for row in own[:-1]] * per_task
        line.append(_interval(own[-1]))
        if to_all:
            line.append(_signed(differences.get((method, keep))))
        lines.append(line)
    return columns, lines


def difference_table(report: Report, frames: int, against: str) -> tuple[Cells, list[Cells]]:
    """Lay out how the methods differ from a reference at the same budget."""
    here = [
        d
        for d in report.differences
        if (d.frames, d.kind, d.against, d.task) == (frames, MEAN, against, MEAN)
    ]
    keeps = list(dict.fromkeys(d.keep for d in here))
    methods = list(dict.fromkeys(d.method for d in here))
    found: dict[tuple[str, Keep | None], Difference] = {(d.method, d.keep): d for d in here}
    budgets = ["-" if keep is None else f"keep {written_keep(keep)}" for keep in keeps]
    columns = [f"less {against}", *budgets]
    lines = [[m, *(_signed(found.get((m, keep))) for keep in keeps)] for m in methods]
    return columns, lines


def markdown(report: Report, header: Mapping[str, Any]) -> str:
    """Write all tables as Markdown, with how they came about."""
    settings = header.get("settings", {})
    parts = ["# Questions about generated scenes\n"]
    if header.get("command"):
        parts.append(f"`{header['command']}`\n")
    parts.append(
        f"Accuracy in %; 95 % bootstrap intervals over clips. Model {settings.get('model')}, "
        f"layer {settings.get('layer')}.\n"
    )
    against = header.get("against")
    for frames in sorted({row.frames for row in report.rows}):
        clips = max(row.clips for row in report.rows if row.frames == frames)
        parts.append(f"## {frames} frames, {clips} clips\n")
        parts.append(markdown_table(*table(report, frames)))
        if against and against != ALL:
            parts.append(markdown_table(*difference_table(report, frames, str(against))))
        for kind in dict.fromkeys(row.kind for row in report.by_kind if row.frames == frames):
            parts.append(f"### {frames} frames, scenes of kind {kind}\n")
            parts.append(markdown_table(*table(report, frames, kind)))
    return "\n".join(parts)


def _interval(row: Row) -> str:
    return percent(row.accuracy) + ends(row.ci_low, row.ci_high)


def _signed(row: Difference | None) -> str:
    if row is None or row.difference is None or row.ci_low is None or row.ci_high is None:
        return ""
    return f"{100 * row.difference:+.1f}{ends(row.ci_low, row.ci_high, signed=True)}"
