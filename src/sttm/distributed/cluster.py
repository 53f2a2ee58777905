"""Join a Ray cluster or start one here, quietly, and find room for models in it."""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from sttm.errors import ConfigError, first_line

_HERE = "local"
_STORE_BYTES = 256 * 2**20  # for jobs and answers, which are small; features go to files
_ENVIRONMENT = {
    # A worker that asked for no GPU must not take those of others.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Nothing is reported to anybody unless the user wants it.
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Room:
    """What fits into a cluster.

    Args:
        workers: models to hold.
        gpus: of each; 0 for a CPU model of one thread.
    """

    workers: int
    gpus: float


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Join a cluster for the time of a block, unless the program has joined one already.

    Args:
        address: such as ``"auto"``, ``"10.0.0.1:6379"`` or ``"ray://10.0.0.1:10001"``; None for
            a cluster of this machine's processes, that ends with the block.

    Raises:
        ConfigError: nothing answers there.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=address or _HERE, **options)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--ray: got {address or 'no address'!r}, where no cluster answers ("
            f"{first_line(error)}). Expected the address of a running one: start it with `ray "
            "start --head`, or leave the address out to work on this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def find_room(workers: int | None, gpus: float | None, jobs: int) -> Room:
    """Decide how many models to hold.

    Args:
        workers: as asked for; None for as many as fit.
        gpus: of each; None for one if there are any.
        jobs: things to do; more workers than that have nothing to do.

    Raises:
        ConfigError: the cluster does not have so much.
    """
    has = ray.cluster_resources()
    there, cores = float(has.get("GPU", 0)), float(has.get("CPU", 0))
    wanted = gpus if gpus is not None else float(there >= 1)
    fit = math.floor(there / wanted + 1e-6) if wanted else math.floor(cores)
    if not fit:
        raise ConfigError(
            f"--ray-gpus: got {wanted:g} per worker, expected at most what the cluster has: "
            f"{there:g} GPUs, {cores:g} CPUs. Ask for less, or add machines."
        )
    if workers is not None and workers > fit:
        raise ConfigError(
            f"--ray-workers: got {workers} of {wanted:g} GPUs and 1 CPU each, expected at most "
            f"{fit} in a cluster of {there:g} GPUs and {cores:g} CPUs. Ask for fewer, or for fewer "
            "--ray-gpus each."
        )
    return Room(min(workers or fit, jobs), wanted)


@contextlib.contextmanager
def quiet_data() -> Iterator[None]:
    """Keep Ray Data from drawing progress bars and telling its plans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own options, which it reads
        context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    names = ("enable_progress_bars", "print_on_execution_start")
    before, level = {name: getattr(context, name) for name in names}, logger.level
    for name in names:
        setattr(context, name, False)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
