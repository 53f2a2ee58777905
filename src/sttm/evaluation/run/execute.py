"""Run a plan: in this process, or wherever the work is taken."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sttm.errors import ConfigError
from sttm.evaluation.parallel import Execute, Loader, Worker, work
from sttm.evaluation.run.answer import answer_video
from sttm.evaluation.run.plan import EvalPlan, VideoItems
from sttm.evaluation.run.records import EvalAnswer


@dataclass(frozen=True)
class Job:
    """One video's share of the work; picklable.

    Args:
        video: the video and all its questions.
        known: ids of the questions that are answered already.
    """

    video: VideoItems
    known: frozenset[str]


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
    execute: Execute[Job, EvalAnswer] = work,
) -> Iterator[EvalAnswer]:
    """Answer everything that is not known yet; errors among the known are tried again.

    Args:
        plan: what to run.
        load: gives the model and its processor; called once per worker.
        videos: what to ask, by video.
        known: answers that are there, by question.
        execute: where to work; elsewhere than here, plan, ``load`` and jobs are pickled.

    Yields:
        new answers, errors included, as they come.

    Raises:
        ConfigError: known answers are to other questions.
    """
    check_known(videos, known)
    done = {key for key, answer in known.items() if answer.error is None}
    jobs = []
    for video in videos:
        ids = frozenset(item.question_id for item in video.items)
        if not ids <= done:
            jobs.append(Job(video, ids & done))
    if jobs:
        yield from execute(partial(ready, plan, load), jobs)


def check_known(videos: Sequence[VideoItems], known: Mapping[str, EvalAnswer]) -> None:
    """Refuse answers to other questions under the same ids.

    Raises:
        ConfigError: the data set has changed since they were given.
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
