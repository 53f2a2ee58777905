"""``sttm bench``: measure methods; a file per benchmark."""

import contextlib
import io
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from sttm.cli.bench_speed import speed
from sttm.cli.eval import evaluate
from sttm.cli.multi_value import MultiValue
from sttm.cli.output import note
from sttm.deprecated import GONE_IN

# Options of the former command as they are written now; those in capitals are keys of --scenes.
_RENAMED = {
    "--methods": "--method",
    "--samples": "COUNT",
    "--frames": "FRAMES",
    "--kinds": "KINDS",
    "--seed": "SEED",
    "-o": "--out",
}
# What it did unless told otherwise.
_DEFAULTS = {
    "--method": ["sttm", "random"],
    "--keep": ["1", "0.5", "0.3", "0.2", "0.1", "0.05"],
    "FRAMES": ["16", "32"],
    "--max-new-tokens": ["6"],
    "--out": ["out/needle"],
}

bench = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
bench.command("speed", cls=MultiValue)(speed)


@bench.command(
    "needle",
    hidden=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def needle(context: typer.Context) -> None:
    """Ask about generated scenes: now `sttm eval run --task needle`, and `sttm eval report`."""
    options = {**_DEFAULTS, **_read(context.args)}
    against, out = options.pop("--against", []), options["--out"]
    json = "--json" in options
    ask = ["run", "--task", "needle", *_written(options)]
    report = ["report", *out, "--by", "kind", "--out", *out, *(["--json"] if json else [])]
    report += ["--against", *against] if against else []
    commands = " && ".join(shlex.join(["sttm", "eval", *words]) for words in (ask, report))
    note(f"`sttm bench needle` goes in sttm {GONE_IN}; it is now: {commands}")
    command = typer.main.get_command(evaluate)
    with contextlib.redirect_stdout(io.StringIO()):  # the report has it all
        command.main(ask, standalone_mode=False)
    command.main(report, standalone_mode=False)


def _read(words: Sequence[str]) -> dict[str, list[str]]:
    """Split a command line into options, by their present names, and their values."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("-") and not word[1:2].isdigit() and word[1:2] != ".":
            name, equals, value = word.partition("=")
            values = found.setdefault(_RENAMED.get(name, name), [])
            word = value if equals else ""
        if word:
            values.append(word)
    return found


def _written(options: Mapping[str, Sequence[str]]) -> list[str]:
    """Write the options of `sttm eval run`; the clips were counted from the first seed on."""
    from sttm.nano.scenes import FIRST_SEED

    scenes = []
    for name, values in options.items():
        if name.isupper():
            value: Any = ",".join(values)
            if name == "SEED" and value.isdigit():
                value = FIRST_SEED + int(value)
            scenes.append(f"{name.lower()}={value}")
    plain = [w for name, values in options.items() if name.islower() for w in (name, *values)]
    return [*plain, "--scenes", *scenes]


@bench.callback()
def options() -> None:
    """Measure time and memory (speed)."""
