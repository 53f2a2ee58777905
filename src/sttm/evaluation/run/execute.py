"""Run a plan: in this process, in several, or wherever an executor takes it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sttm.errors import ConfigError
from sttm.evaluation.parallel import Worker, work
from sttm.evaluation.run.answer import answer_video
from sttm.evaluation.run.plan import EvalPlan, VideoItems
from sttm.evaluation.run.records import EvalAnswer

Loader = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True)
class Job:
    """One video's share of the work; picklable.

    Args:
        video: the video and all its questions.
        known: ids of the questions that are answered already.
    """

    video: VideoItems
    known: frozenset[str]


class Executor(Protocol):
    """Works jobs off somewhere."""

    def __call__(self, plan: EvalPlan, load: Loader, jobs: Sequence[Job]) -> Iterator[EvalAnswer]:
        """Answer everything.

        Args:
            plan: what to run.
            load: gives the model and its processor; picklable, called once per worker.
            jobs: what to do; their order is free.
        Yields: every missing answer once, as soon as it is there: they are written as they come.
        """
        ...


@dataclass(frozen=True)
class Local:
    """Works on this machine.

    Args:
        processes: with more than one, videos are spread over them, a thread and a model each.
    """

    processes: int = 1

    def __call__(self, plan: EvalPlan, load: Loader, jobs: Sequence[Job]) -> Iterator[EvalAnswer]:
        """Answer everything; see `Executor`."""
        yield from work(partial(ready, plan, load), jobs, processes=self.processes)


def ready(plan: EvalPlan, load: Loader) -> Worker[Job, EvalAnswer]:
    """Load the model and return what answers a job; for a worker."""
    runner = plan.runner(*load())
    return lambda job: answer_video(runner, plan, job.video, job.known)


def run(
    plan: EvalPlan,
    load: Loader,
    videos: Sequence[VideoItems],
    known: Mapping[str, EvalAnswer],
    *,
    execute: Executor | None = None,
) -> Iterator[EvalAnswer]:
    """Answer everything that is not known yet; errors among the known are tried again.

    Args:
        plan: what to run.
        load: gives the model and its processor; see `Executor`.
        videos: what to ask, by video.
        known: answers that are there, by question.
        execute: where to work; in this process if None.
    Yields: new answers, errors included, as they come.
    Raises: ConfigError: known answers are to other questions.
    """
    execute = execute or Local()
    check_known(videos, known)
    done = {key for key, answer in known.items() if answer.error is None}
    jobs = []
    for video in videos:
        ids = frozenset(item.question_id for item in video.items)
        if not ids <= done:
            jobs.append(Job(video, ids & done))
    if jobs:
        yield from execute(plan, load, jobs)


def check_known(videos: Sequence[VideoItems], known: Mapping[str, EvalAnswer]) -> None:
    """Refuse answers to other questions under the same ids.

    Raises: ConfigError: the data set has changed since they were given.
    """
    for video in videos:
        for item in video.items:
            found = known.get(item.question_id)
            if found is not None and not found.asks(item):
                raise ConfigError(
                    f"answers: got one to {found.question!r} ({found.expected}) under "
                    f"{item.question_id!r}, expected {item.question!r} ({item.answer}): the data "
                    "set has changed. Choose another --out."
                )
