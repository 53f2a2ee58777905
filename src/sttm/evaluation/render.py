"""Lay out a report: tables for people, Markdown, CSV, JSON and a plot."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from sttm.budget import written_keep
from sttm.evaluation.paper import PublishedRow
from sttm.evaluation.plot import Panel, Point, draw_panels
from sttm.evaluation.rows import AccuracyRow, Comparison, EvalReport, RunRow
from sttm.evaluation.specs import ALL
from sttm.files import write_json, write_text

FORMAT = 2
Cells = list[str]
COLUMNS = (
    "run",
    "method",
    "keep",
    "retention",
    "accuracy",
    "relative accuracy",
    "less all tokens",
    "TTFT",
    "relative TTFT",
    "end to end",
    "n",
)
NOTES = (
    "Accuracy in %, with 95 % intervals from resampling videos; relative numbers in % of the run "
    "with all tokens, on the questions that both answered. Retention is the mean over questions of "
    "video tokens kept / video tokens. TTFT is the mean time of the language model's first "
    "forward, reduction included, without decoding and the vision tower; end to end is from the "
    "file to the last token, as if every question had come alone. An interval without width means "
    "that all resamples agree, as where every answer is right, not that nothing is uncertain."
)
PAPER_NOTE = (
    "Rows in italics are the paper's, measured by its authors on one A100-80G (72B: four). "
    '"differs": our run is not that row in everything; (?): the cell cannot be right as it stands. '
    "What is behind either stands below."
)

_SETTINGS = (
    *("task_version", "spec", "options", "layer", "positions", "sampling", "prompt", "parser"),
    *("max_new_tokens", "seed", "reproduce", "dtype", "newline", "weights", "features"),
)
_MACHINE = ("commit", "code", "device", "cpu", "threads", "load_average", "torch", "transformers")

_NESTED = ("summary", "published", "published_differs")  # of a row, not for a CSV file
_OF_THE_PAPER = (
    *("name", "accuracy", "relative_accuracy", "ttft_s", "relative_ttft", "tokens", "retention"),
    *("source", "doubt"),
)


class Section(NamedTuple):
    """What stands in one table: runs of one task and model.

    Args:
        task, model: names.
        part: as in `RunRow`.
        frames: as in `RunRow`; None where the report has videos of one length only.
    """

    task: str
    model: str
    part: str = ""
    frames: int | None = None

    def __str__(self) -> str:
        length = "" if self.frames is None else f"{self.frames} frames"
        return ", ".join(filter(None, (self.task, self.model, length, self.part)))


def write_report(folder: Path, report: EvalReport, header: Mapping[str, Any]) -> list[Path]:
    """Write ``report.json``, ``runs.csv``, ``accuracies.csv``, ``report.md``, ``accuracy.png``.

    Args:
        folder: an existing folder.
        report: the rows.
        header: how they came about; goes into the JSON as it is.

    Returns:
        the files.

    Raises:
        WriteError: one of them cannot be written.
    """
    files = [folder / name for name in ("report.json", "runs.csv", "accuracies.csv", "report.md")]
    write_json(files[0], {"format": FORMAT, **header, **asdict(report)})
    write_text(files[1], _csv([_flat(row) for row in (*report.runs, *report.parts)]))
    write_text(files[2], _csv([asdict(row) for row in report.accuracies]))
    write_text(files[3], markdown(report, header))
    files.append(folder / "accuracy.png")
    draw_panels(_panels(report), files[-1], "accuracy")
    return files


def sections(report: EvalReport) -> list[Section]:
    """List tasks with models and lengths, in order, all questions first and then their parts."""
    rows = (*report.runs, *report.parts)
    several = len({row.frames for row in rows}) > 1
    found = (Section(r.task, r.model, r.part, r.frames if several else None) for r in rows)
    return list(dict.fromkeys(found))


def table(report: EvalReport, section: Section) -> tuple[Cells, list[Cells]]:
    """Lay out the runs of one task and model, each with the paper's row below it."""
    lines = []
    for row in _of(report, section):
        lines.append(_line(row))
        if row.published is not None:
            lines.append(_published_line(row.published, differs=bool(row.published_differs)))
    return list(COLUMNS), lines


def group_tables(report: EvalReport, section: Section) -> list[tuple[str, Cells, list[Cells]]]:
    """Lay out accuracies by metric and group: a title, the columns, and a line per run."""
    names = [row.run for row in _of(report, section)]
    rows = [r for r in report.accuracies if r.run in names and r.part == section.part]
    tables = []
    whole = [row for row in rows if not row.group]
    metrics = list(dict.fromkeys(row.metric for row in whole))
    if len(metrics) > 1:
        tables.append(_by_run("all metrics", whole, names, metrics, "metric"))
    # Groups of another metric count the same questions, unless it counts something else.
    for metric in metrics:
        units = {row.unit for row in rows if row.metric in (metric, metrics[0])}
        if metric != metrics[0] and len(units) == 1:
            continue
        groups = dict.fromkeys(row.group for row in rows if row.metric == metric and row.group)
        for group in groups:
            some = [row for row in rows if (row.metric, row.group) == (metric, group)]
            values = list(dict.fromkeys(row.value for row in some))
            tables.append(_by_run(f"{metric}, by {group}", some, names, values, "value"))
    return tables


def comparison_table(comparisons: Sequence[Comparison]) -> tuple[Cells, list[Cells]]:
    """Lay out the paired tests."""
    columns = ["first", "second", "difference", "only first right", "only second right"]
    columns += ["p (McNemar)", "questions", "videos", "other settings that differ"]
    lines = []
    for one in comparisons:
        difference = _signed(one.difference, one.ci_low, one.ci_high)
        counts = [str(one.only_first), str(one.only_second)]
        where = [str(one.questions), str(one.videos), ", ".join(one.differs) or "none"]
        lines.append([one.first, one.second, difference, *counts, _p_value(one.p_value), *where])
    return columns, lines


def markdown(report: EvalReport, header: Mapping[str, Any]) -> str:
    """Write all tables as Markdown, with how they came about."""
    parts = ["# Evaluation\n"]
    if header.get("command"):
        parts.append(f"`{header['command']}`\n")
    parts.append(NOTES + "\n")
    for section in sections(report):
        rows = _of(report, section)
        parts.append(f"## {section}\n")
        columns, lines = table(report, section)
        parts.append(markdown_table(columns, [_italic(line) for line in lines]))
        if any(row.published for row in rows):
            parts.append(PAPER_NOTE + "\n")
        troubles = [f"- {row.run}: {text}\n" for row in rows for text in row.troubles()]
        if troubles:
            parts.append("".join(troubles))
        for title, columns, lines in group_tables(report, section):
            parts.append(f"### {title}\n")
            parts.append(markdown_table(columns, lines))
    if report.comparisons:
        parts.append("## Paired comparisons\n")
        parts.append(markdown_table(*comparison_table(report.comparisons)))
    if header.get("settings"):
        parts.append("## How the answers came about\n")
        parts.append("".join(_origins(header)))
    return "\n".join(parts)


def _origins(header: Mapping[str, Any]) -> Iterator[str]:
    """Say for every run what it depends on, and which machine and code answered."""
    for name, settings in header["settings"].items():
        machine = header.get("runs_about", {}).get(name, {}).get("machine", {})
        words = [f"{key} {settings[key]}" for key in _SETTINGS if key in settings]
        words += [f"{key} {machine[key]}" for key in _MACHINE if key in machine]
        yield f"- {name}: {', '.join(words)}\n"


def _of(report: EvalReport, section: Section) -> list[RunRow]:
    rows = (*report.runs, *report.parts)
    return [
        row
        for row in rows
        if (row.task, row.model, row.part) == section[:3] and section.frames in (None, row.frames)
    ]


def _line(row: RunRow) -> Cells:
    summary = row.summary
    relative = percent(row.relative_accuracy) + ends(row.relative_low, row.relative_high)
    is_full = row.full == row.run
    return [
        row.run,
        row.method,
        "-" if row.keep is None else written_keep(row.keep),
        percent(None if row.unreachable else summary.retention),
        "out of reach"
        if row.unreachable
        else percent(row.accuracy) + ends(row.ci_low, row.ci_high),
        "100.0" if is_full else relative,
        "-" if is_full else _signed(row.less_full, row.less_full_low, row.less_full_high),
        _seconds(summary.ttft_s),
        percent(row.relative_ttft),
        _seconds(summary.seconds),
        str(row.n),
    ]


def _published_line(row: PublishedRow, *, differs: bool) -> Cells:
    marks = " (differs)" * differs + " (?)" * bool(row.doubt)
    return [
        f"{row.source}{marks}",
        row.method,
        "-" if row.budget is None else f"{row.budget / 100:g}",
        percent(row.retention),
        percent(row.accuracy),
        percent(row.relative_accuracy),
        "-",
        _seconds(row.ttft_s),
        percent(row.relative_ttft),
        "-",
        "-",
    ]


def _by_run(
    title: str, rows: Sequence[AccuracyRow], names: Sequence[str], values: Sequence[str], by: str
) -> tuple[str, Cells, list[Cells]]:
    found = {(row.run, getattr(row, by)): row for row in rows}
    lines = []
    for name in names:
        cells = [found.get((name, value)) for value in values]
        lines.append([name, *("-" if cell is None else _accuracy(cell) for cell in cells)])
    return title, ["run", *values], lines


def _signed(value: float | None, low: float | None, high: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}{ends(low, high, signed=True)}"


def _accuracy(row: AccuracyRow) -> str:
    text = percent(row.accuracy) + ends(row.ci_low, row.ci_high)
    return text if row.accuracy is None else f"{text} ({row.n})"


def _panels(report: EvalReport) -> list[Panel]:
    panels = []
    for section in sections(report):
        rows = _of(report, section)
        points = [
            Point(row.method, row.summary.retention, row.accuracy, row.ci_low, row.ci_high)
            for row in rows
            if row.accuracy is not None
        ]
        beside = [point for row in rows if (point := _published_point(row)) is not None]
        name = str(section._replace(model=Path(section.model).name))
        panels.append(Panel(name, points, beside))
    return panels


def _published_point(row: RunRow) -> Point | None:
    """Place the paper's row in the plot, where nothing can be said about it, if it is that run."""
    paper = row.published
    if paper is None or paper.budget is None or paper.accuracy is None:
        return None
    if paper.method == ALL or row.published_differs:
        return None
    return Point(paper.method, paper.budget / 100, paper.accuracy)


def _flat(row: RunRow) -> dict[str, Any]:
    """Write a run in one line: counts and means instead of records."""
    names = [field.name for field in fields(row) if field.name not in _NESTED]
    flat = {name: getattr(row, name) for name in names}
    flat["full_differs"] = "; ".join(row.full_differs)
    summary = asdict(row.summary)
    summary["errors"] = sum(row.summary.errors.values())
    flat |= summary
    flat |= {f"paper_{name}": getattr(row.published, name, None) for name in _OF_THE_PAPER}
    flat["paper_differs"] = "; ".join(row.published_differs)
    return flat


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    return csv_text(list(rows[0]) if rows else [], rows)


def _italic(line: Cells) -> Cells:
    published = line[0].startswith("arXiv")
    return [f"*{cell}*" for cell in line] if published else line


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def markdown_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a table as Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV, below the names of the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def percent(share: float | None) -> str:
    """Write a share in percent, without the sign; ``-`` for none."""
    return "-" if share is None else f"{100 * share:.1f}"


def ends(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Write the ends of an interval of shares, to follow its value; nothing for none."""
    if low is None or high is None:
        return ""
    form = "+.1f" if signed else ".1f"
    return f" [{100 * low:{form}}, {100 * high:{form}}]"
