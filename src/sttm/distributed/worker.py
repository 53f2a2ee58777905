"""What runs inside a worker of a Ray cluster: a model, and what turns jobs into results."""

import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from sttm.errors import SttmError
from sttm.evaluation.executor import Setup, WorkerFailure

Batch = dict[str, Any]

PLACE, JOB, RESULTS = "place", "job", "results"
_SETUP = -1  # beside the places of jobs


class Attempts:
    """Counts how often things are begun: Ray would begin what kills its worker forever."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, what: int) -> int:
        """Note that a thing is begun; tell how often that was."""
        self._begun[what] += 1
        return self._begun[what]

    def forget(self, what: int) -> None:
        """Note that it went well."""
        del self._begun[what]


@dataclass(frozen=True)
class Limits:
    """How often things may be begun while workers are lost.

    Args:
        setups: in a row, of all workers together.
        batches: of each batch.
    """

    setups: int
    batches: int


class Worker:
    """Holds a model, in a process of its own.

    Args:
        setup: pickled; gets ready and returns what turns a job into results.
        attempts: the actor that counts them.
        limits: how many there may be.
    """

    def __init__(self, setup: bytes, attempts: Any, limits: Limits) -> None:
        self._attempts = attempts
        self._limits = limits
        self._work: Callable[[Any], Iterable[Any]] | None = None
        self._failure: WorkerFailure | None = None
        try:
            if self._begin(_SETUP) > limits.setups:
                raise _lost("getting ready")
            make: Setup[Any, Any] = pickle.loads(setup)
            self._work = make()
            attempts.forget.remote(_SETUP)
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver must hear of it
            self._failure = WorkerFailure.of(error)

    def __call__(self, batch: Batch) -> Batch:
        """Work off a batch of pickled jobs; give the pickled results of each."""
        jobs = [pickle.loads(job) for job in batch[JOB]]
        lost = None
        if self._begin(int(batch[PLACE][0])) > self._limits.batches:
            lost = WorkerFailure.of(_lost(", ".join(map(_name, jobs))))
        results = [pickle.dumps(lost or self._results(job)) for job in jobs]
        return {RESULTS: np.array(results, dtype=object)}

    def _begin(self, what: int) -> int:
        return int(ray.get(self._attempts.begin.remote(what)))

    def _results(self, job: Any) -> list[Any] | WorkerFailure:
        if self._work is None:
            assert self._failure is not None
            return self._failure
        try:
            return list(self._work(job))
        except Exception as error:  # noqa: BLE001 - the driver must hear of it
            return WorkerFailure.of(error)


def _lost(what: str) -> SttmError:
    return SttmError(
        f"--ray: got workers that were lost every time they were at {what}, expected them to stay: "
        "are they out of memory? What was answered is kept; run the same command again to go on, "
        "perhaps with fewer --ray-workers."
    )


def _name(job: Any) -> str:
    video = getattr(job, "video", job)
    return str(getattr(video, "video_id", video))
