"""Work jobs off in this process, or in several of one thread each; results come when ready."""

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch

from sttm.errors import SttmError
from sttm.evaluation.checks import MOST_PROCESSES, check_count
from sttm.plugins import WithPlugins

EXIT_ORPHANED = 3  # of a worker whose parent is gone
_POLL_S = 1.0

J = TypeVar("J")
T = TypeVar("T")
Worker = Callable[[J], Iterable[T]]
Setup = Callable[[], Worker[J, T]]
# Works jobs off somewhere, as `run_jobs` does here; results come as they are there, in any order.
Execute = Callable[[Setup[J, T], Sequence[J]], Iterator[T]]
Loader = Callable[[], tuple[Any, Any]]  # gives a model and its processor


class _Done:
    """A worker has no more jobs."""


@dataclass(frozen=True)
class WorkerFailure:
    """What went wrong in a worker; an error of another library may not survive the journey."""

    error: SttmError | None
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "WorkerFailure":
        """Take down an error that is being handled."""
        return cls(error if isinstance(error, SttmError) else None, traceback.format_exc())

    def fail(self) -> NoReturn:
        """Raise what went wrong, where the results are awaited."""
        raise self.error or RuntimeError(f"a worker failed:\n{self.trace}")


def run_jobs(setup: Setup[J, T], jobs: Sequence[J], *, processes: int = 1) -> Iterator[T]:
    """Work jobs off.

    Args:
        setup: gets ready, e.g. loads a model, and returns what turns a job into results; called
            once per process, so with several it must be picklable, as must jobs and results.
        jobs: taken in order.
        processes: with more than one, jobs are spread over them.

    Yields:
        results as they come; with several processes in no order.

    Raises:
        SttmError: a worker's, or a worker that ended by itself.
    """
    processes = min(check_count("processes", processes, most=MOST_PROCESSES), len(jobs))
    if processes > 1:
        yield from _spread(setup, jobs, processes)
        return
    worker = setup()
    for job in jobs:
        yield from worker(job)


def _spread(setup: Setup[J, T], jobs: Sequence[J], processes: int) -> Iterator[T]:
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    results: Any = context.Queue()
    for task in [*jobs, *[None] * processes]:
        tasks.put(task)
    workers = [
        context.Process(target=_work, args=(WithPlugins.of(setup), tasks, results), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    busy = processes
    try:
        while busy:
            found = _next(results, workers)
            if isinstance(found, _Done):
                busy -= 1
            else:
                yield found
    finally:
        tasks.cancel_join_thread()  # nobody takes what is left, and this process is not to wait
        for worker in workers:
            worker.terminate()
            worker.join()


def _next(results: Any, workers: list[Any]) -> Any:
    while True:
        try:
            found = results.get(timeout=_POLL_S)
        except queue.Empty:
            codes = [worker.exitcode for worker in workers]
            if any(codes) or None not in codes:
                raise SttmError(
                    f"got workers that ended with exit codes {codes}, expected answers: were they "
                    "killed, or out of memory? What was answered is kept; run the same command "
                    "again to go on, perhaps with --processes 1."
                ) from None
            continue
        if isinstance(found, WorkerFailure):
            found.fail()
        return found


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, however that ended and whatever this is at.

    A parent that was killed cannot end its workers, and one that waits for a job, or is deep in a
    model, does not look around by itself.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()  # a pipe that the system closes with the parent
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def _work(setup: Setup[Any, Any], tasks: Any, results: Any) -> None:
    """Take jobs until there are none; the main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    _end_with_parent()
    torch.set_num_threads(1)
    try:
        worker = setup()
        while (job := tasks.get()) is not None:
            for result in worker(job):
                results.put(result)
        results.put(_Done())
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        results.put(WorkerFailure.of(error))
