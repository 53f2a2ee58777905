"""What runs inside a worker, without a cluster."""

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sttm.errors import ConfigError, SttmError
from sttm.evaluation.config import VideoItems
from sttm.evaluation.evaluate import Job
from sttm.evaluation.executor import WorkerFailure
from tests.distributed.tasks import dividing, doubling, refusing

pytest.importorskip("ray", reason="needs Ray: pip install 'sttm[ray]'")

from sttm.distributed.worker import (
    JOB,
    PLACE,
    RESULTS,
    Attempts,
    Limits,
    Worker,
)

Make = Callable[..., Worker]


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, attempts: Attempts) -> Make:
    """Build workers whose counter is no actor."""
    monkeypatch.setattr("sttm.distributed.worker.ray.get", lambda value: value)
    actor = SimpleNamespace(
        begin=SimpleNamespace(remote=attempts.begin), forget=SimpleNamespace(remote=attempts.forget)
    )
    return lambda setup: Worker(pickle.dumps(setup), actor, Limits(setups=2, batches=2))


def ask(worker: Worker, *jobs: Any, place: int = 0) -> list[Any]:
    batch = {PLACE: [place, *range(1, len(jobs))], JOB: [pickle.dumps(job) for job in jobs]}
    return [pickle.loads(found) for found in worker(batch)[RESULTS]]


def test_every_job_of_a_batch_gets_its_results(make: Make) -> None:
    assert ask(make(doubling), 1, 2) == [[1, 2], [2, 4]]


def test_an_error_is_a_result(make: Make) -> None:
    found = ask(make(dividing), 0, 1)
    assert found[1] == [1]
    assert isinstance(found[0], WorkerFailure)
    assert found[0].error is None
    assert "ZeroDivisionError" in found[0].trace


def test_a_worker_that_cannot_get_ready_says_why(make: Make) -> None:
    found = ask(make(refusing), 1)[0]
    assert isinstance(found.error, ConfigError)
    assert str(found.error) == "the folder is full"


def test_a_batch_that_was_begun_too_often_is_left(make: Make) -> None:
    worker = make(doubling)
    job = Job(VideoItems("clip-7", ()), {})
    for _ in range(2):
        assert ask(worker, 4, place=5) == [[4, 8]]
    found = ask(worker, job, place=5)[0]
    assert isinstance(found.error, SttmError)
    assert "lost every time they were at clip-7, expected" in str(found.error)


def test_a_model_that_kills_workers_while_it_loads_is_left(make: Make, attempts: Attempts) -> None:
    for place in range(5):  # each that gets ready begins the count anew
        assert ask(make(doubling), 1, place=place) == [[1, 2]]
    for _ in range(2):
        attempts.begin(-1)  # two that did not
    assert "at getting ready, expected" in str(ask(make(doubling), 1, place=9)[0].error)
