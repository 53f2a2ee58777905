"""Where output goes: results to stdout, everything else to stderr."""

import dataclasses
import json
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

results = Console()
notes = Console(stderr=True)

_QUANTITY = re.compile(r"\d[\d.]* (ms|s|%)")
_DIGITS = 6  # of a float in JSON: microseconds, and shares of a million tokens


def show_error(error: Exception) -> None:
    """Print an error in red, on one line however long it is."""
    message = " ".join(str(error).split())
    notes.print(_text(f"error: {message}", "red"), soft_wrap=True)


def note(text: str) -> None:
    """Tell the user something beside the results."""
    notes.print(_text(f"note: {text}", "yellow"), soft_wrap=True)


@contextmanager
def noted_warnings() -> Iterator[None]:
    """Tell warnings of sttm as notes, at the end of the block; others stay as they are."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for each in caught:
            if each.category.__module__.split(".")[0] == "sttm":
                note(str(each.message))
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def say(text: str) -> None:
    """Print one line of results; never wrapped, never read as markup."""
    results.print(_text(text), soft_wrap=True)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table; numbers stand right, and no cell is read as markup."""
    table = Table(title=title or None, title_justify="left")
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[place]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(str(cell)) for cell in row))
    results.print(table)


def show_json(value: object) -> None:
    """Print one JSON value; dataclasses become objects."""
    typer.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def command_line() -> str:
    """Write the command that runs, as it was given, so that a shell reads it back the same."""
    return shlex.join(["sttm", *sys.argv[1:]])


def milliseconds(seconds: float) -> str:
    """Write a duration, e.g. ``12.3 ms``, or ``4.56 s`` from one second on."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def percent(share: float) -> str:
    """Write a share, e.g. ``29.9 %``."""
    return f"{100 * share:.1f} %"


def _text(text: str, style: str = "") -> Text:
    """Keep markup and control characters of file names and answers away from the terminal."""
    shown = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return Text("".join(shown), style=style)


def _is_number(cell: object) -> bool:
    return isinstance(cell, int) or _QUANTITY.match(str(cell)) is not None


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return round(value, _DIGITS) if isinstance(value, float) else value
