"""``sttm bench``: measure methods; a file per benchmark."""

import shlex
import sys

import typer

from sttm.cli.bench_speed import speed
from sttm.cli.eval import evaluate
from sttm.cli.multi_value import MultiValue
from sttm.cli.output import note
from sttm.deprecated import GONE_IN
from sttm.errors import ConfigError

# Options of the former command, and how they are written now; "=" stands in front of --scenes.
_RENAMED = {"--methods": "--method", "--samples": "=count", "--frames": "=frames"}

bench = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
bench.command("speed", cls=MultiValue)(speed)


@bench.command(
    "needle",
    hidden=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def needle(context: typer.Context) -> None:
    """Ask about generated scenes: now `sttm eval run --task needle`."""
    arguments, scenes = _renamed(context.args)
    command = ["eval", "run", "--task", "needle", *arguments, *scenes]
    text = shlex.join(["sttm", *command])
    note(f"`sttm bench needle` goes in sttm {GONE_IN}; it is now: {text}")
    sys.argv[1:] = command  # what the results name as their command
    typer.main.get_command(evaluate).main(command[1:], standalone_mode=False)


def _renamed(given: list[str]) -> tuple[list[str], list[str]]:
    """Write the options of `bench needle` as those of `eval run`, and those of --scenes."""
    groups: list[list[str]] = []
    for text in given:
        if text.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(text)
    kept: list[str] = []
    scenes: list[str] = []
    for name, *values in groups:
        new = _RENAMED.get(name, name)
        if name in ("--kinds", "--seed", "--against") or (new == "=frames" and len(values) > 1):
            raise ConfigError(
                f"got {name} {' '.join(values)}, which `sttm bench needle` no longer takes. Use "
                "`sttm eval run --task needle` with --scenes kinds=static,cut seed=50000000 "
                "frames=16, once for each length, and `sttm eval report --against LABEL`."
            )
        if new.startswith("="):
            scenes += [f"{new[1:]}={value}" for value in values]
        else:
            kept += [new, *values]
    return kept, ["--scenes", *scenes] if scenes else []


@bench.callback()
def options() -> None:
    """Measure time and memory (speed)."""
