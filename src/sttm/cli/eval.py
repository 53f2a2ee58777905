"""``sttm eval``: run benchmarks and report on them; a file per command."""

import typer

from sttm.cli.command import Command
from sttm.cli.eval_report import presets, report
from sttm.cli.eval_run import run
from sttm.cli.eval_submission import submission
from sttm.cli.eval_tasks import tasks, validate
from sttm.cli.executor_options import RayMayBeBare
from sttm.cli.multi_value import MultiValue


class RunCommand(RayMayBeBare, MultiValue):
    """A command with options of several values, whose ``--ray`` needs none."""


evaluate = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
evaluate.command("run", cls=RunCommand)(run)
evaluate.command("report", cls=Command)(report)
evaluate.command("presets", cls=Command)(presets)
evaluate.command("tasks", cls=Command)(tasks)
evaluate.command("validate", cls=Command)(validate)
evaluate.command("submission", cls=Command)(submission)


@evaluate.callback()
def options() -> None:
    """Benchmarks: answer their questions, and report accuracy, time and tokens."""
