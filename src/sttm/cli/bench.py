"""``sttm bench``: measure methods; a file per benchmark."""

import typer

from sttm.cli.bench_needle import needle
from sttm.cli.bench_speed import speed
from sttm.cli.many import ManyValues

bench = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
bench.command("needle", cls=ManyValues)(needle)
bench.command("speed", cls=ManyValues)(speed)


@bench.callback()
def options() -> None:
    """Measure methods: right answers (needle), time and memory (speed)."""
