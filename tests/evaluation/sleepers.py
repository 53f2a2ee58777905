"""Workers that do nothing for long, each at another place; a program for `test_executor`."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sttm.evaluation.executor import run_jobs

LONG_S = 600.0


def note(folder: Path) -> None:
    """Leave the process's number."""
    (folder / str(os.getpid())).touch()


def sleep(folder: Path, at: str, job: int) -> Iterator[int]:
    if at == "job":
        note(folder)
        time.sleep(LONG_S)
    yield job
    if at == "result":
        while True:
            yield job


def ready(folder: Path, at: str) -> Callable[[int], Iterator[int]]:
    if at != "job":
        note(folder)
    if at == "setup":
        time.sleep(LONG_S)
    return partial(sleep, folder, at)


def sizes(job: bytes) -> Iterator[int]:
    yield len(job)
    time.sleep(LONG_S)


def sized() -> Callable[[bytes], Iterator[int]]:
    return sizes


if __name__ == "__main__":
    if sys.argv[2] == "first":  # jobs that no pipe holds, of which only the first result counts
        results = run_jobs(sized, [bytes(10**6)] * 8, processes=2)
        assert next(results) == 10**6
        del results
        sys.exit()
    for _ in run_jobs(partial(ready, Path(sys.argv[1]), sys.argv[2]), [0, 1], processes=2):
        time.sleep(LONG_S)
