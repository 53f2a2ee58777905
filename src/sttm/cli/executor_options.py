"""Where work is done: options that several commands share, and what they stand for."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.cli.command import Command
from sttm.errors import ConfigError

if TYPE_CHECKING:
    from sttm.evaluation.executor import Execute

RAY_HERE = "here"  # --ray without an address

ProcessesOption = Annotated[
    int, typer.Option(min=1, help="Spread videos over processes of one thread each.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray", metavar="[ADDRESS]", help="Spread videos over a Ray cluster; alone: over here."
    ),
]
RayWorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Models to hold with --ray. Default: as fit.")
]
RayGpusOption = Annotated[
    float | None, typer.Option(min=0, help="GPUs per model with --ray. Default: 1 if any.")
]


class RayMayBeBare(Command):
    """A command whose option ``--ray`` needs no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put a value behind a bare ``--ray``, then parse as usual."""
        full: list[str] = []
        for arg, following in zip(args, [*args[1:], "-"]):
            full.append(arg)
            if arg == "--ray" and following.startswith("-"):
                full.append(RAY_HERE)
        return super().parse_args(ctx, full)


@dataclass(frozen=True)
class ExecutorOptions:
    """Where work is to be done, as the options say it."""

    processes: ProcessesOption = 1
    ray: RayOption = None
    ray_workers: RayWorkersOption = None
    ray_gpus: RayGpusOption = None

    @property
    def here(self) -> bool:
        """Whether it is this process, with the model that it has."""
        return self.ray is None and self.processes == 1

    def execute(self) -> "Execute[Any, Any]":
        """Build what works jobs off there.

        Raises:
            ConfigError: both places are named, or options of one that is not, or a number is out of
                range.
            MissingExtraError: Ray is not installed.
        """
        from sttm.evaluation.executor import run_jobs

        if self.ray is None and (self.ray_workers is not None or self.ray_gpus is not None):
            given = "--ray-gpus" if self.ray_workers is None else "--ray-workers"
            raise ConfigError(
                f"got {given} without --ray, expected both: it is about a Ray cluster. Add --ray, "
                "or drop it."
            )
        if self.ray is None:
            return partial(run_jobs, processes=self.processes)
        if self.processes > 1:
            raise ConfigError("got --ray and --processes, expected one of them.")
        return _ray(self.ray, workers=self.ray_workers, gpus=self.ray_gpus)


def set_threads(threads: int | None) -> None:
    """Let PyTorch use so many threads; None for its own choice.

    Raises:
        ConfigError: more than a machine has.
    """
    if threads is None:
        return
    import torch

    from sttm.evaluation.checks import MOST_PROCESSES, check_count

    torch.set_num_threads(check_count("--threads", threads, most=MOST_PROCESSES))


def _ray(address: str, *, workers: int | None, gpus: float | None) -> "Execute[Any, Any]":
    from sttm.distributed import RayExecutor

    return RayExecutor(address=None if address == RAY_HERE else address, workers=workers, gpus=gpus)
