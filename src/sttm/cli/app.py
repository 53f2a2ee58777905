"""The application: its commands, the options before them, and how errors are shown."""

import errno
import platform
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sttm
from sttm import plugins
from sttm.cli.ask import ask
from sttm.cli.bench import bench
from sttm.cli.calibrate import calibrate
from sttm.cli.command import Command, check_once
from sttm.cli.compare import compare
from sttm.cli.convert import convert
from sttm.cli.demo import demo
from sttm.cli.eval import evaluate
from sttm.cli.executor_options import RayMayBeBare
from sttm.cli.extract import extract
from sttm.cli.methods import methods
from sttm.cli.models import models
from sttm.cli.multi_value import MultiValue
from sttm.cli.output import show_error
from sttm.cli.serve import serve, ui
from sttm.cli.show import show
from sttm.cli.store import store
from sttm.errors import SttmError

_PLUGIN = "--plugin"
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # what a shell reports for Ctrl-C


class _Commands(TyperGroup):
    """Shows an error of sttm as one line instead of a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the command; ``--plugin`` may stand behind it, too."""
        args = _plugins_first(args)
        try:
            if not ctx.resilient_parsing:
                check_once(self.make_parser(ctx).parse_args(args=list(args))[2])
        except SttmError as error:
            show_error(error)
            raise typer.Exit(EXIT_ERROR) from error
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SttmError as error:
            if ctx.params.get("debug"):
                raise
            show_error(error)
            raise typer.Exit(EXIT_ERROR) from error
        except OSError as error:
            # The disk is full, a folder was taken away: nothing that a traceback would explain.
            if ctx.params.get("debug") or error.errno == errno.EPIPE:
                raise  # of a pipe whose reader has gone away the parser makes a silent end
            show_error(_as_line(error))
            raise typer.Exit(EXIT_ERROR) from error
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from interrupt


def _plugins_first(args: Sequence[str]) -> list[str]:
    """Bring every ``--plugin MODULE`` to the front, unless it is behind ``--``."""
    end = args.index("--") if "--" in args else len(args)
    front: list[str] = []
    rest: list[str] = []
    words = iter(args[:end])
    for word in words:
        if word == _PLUGIN:
            front += [word, *islice(words, 1)]
        else:
            (front if word.startswith(f"{_PLUGIN}=") else rest).append(word)
    return [*front, *rest, *args[end:]]


def _as_line(error: OSError) -> SttmError:
    """Say what the operating system refused."""
    where = f"{error.filename}: " if error.filename else ""
    return SttmError(
        f"{where}the operating system refused ({error.strerror or error}), expected it to work. "
        "Make room or choose another place, then run the same command again; "
        "sttm --debug COMMAND shows where it was."
    )


app = typer.Typer(
    name="sttm",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every command explains itself: sttm ask --help.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sttm {sttm.__version__} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error: sttm --debug ask ...")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="MODULE",
            help="Python module with methods or model families of your own; may come several "
            "times, also behind the command.",
        ),
    ] = None,
) -> None:
    """Make video LLMs faster by merging redundant video tokens; ask many questions per video."""
    plugins.use(plugin or [])


_CLASSES = {compare: MultiValue, extract: RayMayBeBare}
for _command in (demo, ask, show, compare, calibrate, extract, convert, serve, ui, methods, models):
    app.command(cls=_CLASSES.get(_command, Command))(_command)
app.add_typer(bench, name="bench")
app.add_typer(evaluate, name="eval")
app.add_typer(store, name="store")


def main() -> None:
    """Run the command line; the entry point of the ``sttm`` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # What a terminal cannot show must not end a run: answers hold any character.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="sttm")
