"""Spread videos over the workers of a Ray cluster, with Ray Data."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.cloudpickle
import ray.data
from ray.data.exceptions import UserCodeException
from ray.exceptions import RayError

from sttm.distributed.cluster import Room, find_room, joined, quiet_data
from sttm.distributed.worker import JOB, PLACE, RESULTS, Attempts, Limits, Worker
from sttm.errors import ConfigError, SttmError, first_line
from sttm.evaluation.checks import check_count
from sttm.evaluation.executor import Setup, WorkerFailure
from sttm.plugins import WithPlugins


@dataclass(frozen=True)
class RayExecutor:
    """Works jobs off on a Ray cluster, for `sttm eval run` and `sttm extract`.

    The workers hold a model each and take batch after batch of videos. What they give comes back
    here, to be written, when a batch is done. If a worker is lost, Ray starts another in its place,
    and the batch that it was at is begun again; what has come back is not asked again.

    Args:
        address: of the cluster, such as ``"auto"`` or ``"10.0.0.1:6379"``; None for processes of
            this machine.
        workers: models to hold; None for as many as fit.
        gpus: of each, may be a fraction; None for one if there are any.
        batch: videos that a worker takes at a time.
        attempts: at a batch whose workers are lost; one of its videos may be the reason.

    Raises:
        ConfigError: a number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None
    batch: int = 1
    attempts: int = 3

    def __post_init__(self) -> None:
        for name in ("workers", "batch", "attempts"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)
        if self.gpus is not None and not (isinstance(self.gpus, int | float) and self.gpus >= 0):
            raise ConfigError(f"gpus: got {self.gpus}, expected 0, a fraction or a whole number.")

    def __call__(self, setup: Setup[Any, Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Work jobs off.

        Args:
            setup: gets ready and returns what turns a job into results; called once per worker.
            jobs: what to do; taken in order.

        Yields:
            results as batches are done, in no order.

        Raises:
            SttmError: a worker's own; or the workers of one video were lost again and again.
            ConfigError: no such cluster, or it is too small.
        """
        if not jobs:
            return
        with joined(self.address):
            room = find_room(self.workers, self.gpus, -(-len(jobs) // self.batch))
            try:
                for pickled in self._stream(setup, jobs, room):
                    found = pickle.loads(pickled)
                    if isinstance(found, WorkerFailure):
                        found.fail()
                    yield from found
            except (RayError, UserCodeException) as error:
                raise SttmError(
                    f"--ray: the cluster failed ({type(error).__name__}: {first_line(error)}), "
                    "expected workers that stay. What was answered is kept; run the same command "
                    "again to go on."
                ) from error

    def _stream(self, setup: Any, jobs: Sequence[Any], room: Room) -> Iterator[bytes]:
        dump = ray.cloudpickle.dumps
        rows = [{PLACE: place, JOB: dump(job)} for place, job in enumerate(jobs)]
        attempts = ray.remote(num_cpus=0, max_restarts=-1)(Attempts).remote()
        limits = Limits(setups=self.attempts * room.workers, batches=self.attempts)
        with quiet_data():
            data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // self.batch))
            results = data.map_batches(
                Worker,
                fn_constructor_args=(dump(WithPlugins.of(setup, dump)), attempts, limits),
                batch_size=None,  # a block is a batch
                # One batch at a time: those that wait must not go down with a worker.
                compute=ray.data.ActorPoolStrategy(
                    size=room.workers, max_tasks_in_flight_per_actor=1
                ),
                num_cpus=1,
                num_gpus=room.gpus,
            )
            for row in results.iter_rows():
                yield row[RESULTS]
