"""What workers do in tests; apart, so that they start without a test module's imports."""

import os
import signal
from collections.abc import Callable
from functools import partial

from sttm.errors import ConfigError

Work = Callable[[int], list[int]]


def double(job: int) -> list[int]:
    return [job, 2 * job]


def divide(job: int) -> list[int]:
    return [1 // job]


def die_at(bad: int, job: int) -> list[int]:
    if job == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return [job]


def doubling() -> Work:
    return double


def dividing() -> Work:
    return divide


def refusing() -> Work:
    raise ConfigError("the folder is full")


def dying() -> Work:
    return partial(die_at, 1)
