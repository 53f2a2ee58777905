"""Run a plan in this process, or in several of one thread each; answers come as they are ready."""

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sttm.errors import SttmError
from sttm.evaluation.journal import AnswerKey, AnswerRecord
from sttm.evaluation.needle import ClipId, Loader, NeedlePlan, answer_clip, known_by_clip

_POLL_S = 1.0


@dataclass(frozen=True)
class _Job:
    """One clip, and the answers about it that are there."""

    clip: ClipId
    known: dict[AnswerKey, AnswerRecord]


@dataclass(frozen=True)
class _Failure:
    """What went wrong in a worker; an error of another library may not survive the journey."""

    error: SttmError | None
    trace: str


def run(
    plan: NeedlePlan,
    load: Loader,
    known: Mapping[AnswerKey, AnswerRecord],
    *,
    processes: int = 1,
) -> Iterator[list[AnswerRecord]]:
    """Answer everything that is not known yet.

    Args:
        plan: what to run.
        load: gives the model and its processor; called once per process, so it must be picklable.
        known: answers that are there.
        processes: with more than one, clips are spread over them.
    Yields: for every clip and setting the new answers; an empty list where there were none.
    Raises: SttmError: a worker's, or a worker that ended by itself.
    """
    by_clip = known_by_clip(known)
    jobs = [_Job(clip, by_clip.get(clip, {})) for clip in plan.clips()]
    processes = min(processes, len(jobs))
    if processes > 1:
        yield from _spread(plan, load, jobs, processes)
        return
    runner = plan.runner(*load())
    for job in jobs:
        yield from answer_clip(runner, plan.settings, job.clip, job.known)


def _spread(
    plan: NeedlePlan, load: Loader, jobs: list[_Job], processes: int
) -> Iterator[list[AnswerRecord]]:
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    results: Any = context.Queue()
    for task in [*jobs, *[None] * processes]:
        tasks.put(task)
    workers = [
        context.Process(target=_work, args=(plan, load, tasks, results), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(len(jobs) * len(plan.settings)):
            yield _next(results, workers)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _next(results: Any, workers: list[Any]) -> list[AnswerRecord]:
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
        if isinstance(found, _Failure):
            raise found.error or RuntimeError(f"a worker failed:\n{found.trace}")
        answers: list[AnswerRecord] = found
        return answers


def _work(plan: NeedlePlan, load: Loader, tasks: Any, results: Any) -> None:
    """Take clips until there are none; the main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    torch.set_num_threads(1)
    parent = os.getppid()
    try:
        runner = plan.runner(*load())
        while (job := tasks.get()) is not None:
            for answers in answer_clip(runner, plan.settings, job.clip, job.known):
                if os.getppid() != parent:
                    return  # the parent was killed: nobody waits for this
                results.put(answers)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        own = error if isinstance(error, SttmError) else None
        results.put(_Failure(own, traceback.format_exc()))
