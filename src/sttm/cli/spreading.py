"""Where work is done: options that several commands share, and the executor that they stand for."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sttm.errors import ConfigError

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


class RayMayBeBare(TyperCommand):
    """A command whose option ``--ray`` needs no value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put a value behind a bare ``--ray``, then parse as usual."""
        full: list[str] = []
        for arg, following in zip(args, [*args[1:], "-"]):
            full.append(arg)
            if arg == "--ray" and following.startswith("-"):
                full.append(RAY_HERE)
        return super().parse_args(ctx, full)


def ray_executor(address: str, *, workers: int | None, gpus: float | None) -> Any:
    """Build what spreads jobs over a Ray cluster.

    Args:
        address: as in ``--ray``.
        workers: models to hold.
        gpus: of each.
    Raises: ConfigError: Ray is not installed, or a number is out of range.
    """
    try:
        from sttm.distributed import RayExecutor
    except ImportError as error:
        raise ConfigError(
            f"--ray: got no Ray ({error}), expected it installed: pip install 'sttm[ray]'. Without "
            "--ray everything runs on this machine."
        ) from error
    return RayExecutor(address=None if address == RAY_HERE else address, workers=workers, gpus=gpus)
