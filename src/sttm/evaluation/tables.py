"""Cells and tables that reports have in common."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Cells = list[str]


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
