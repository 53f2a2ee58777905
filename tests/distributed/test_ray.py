"""Evaluation and extraction on a local Ray cluster of two workers."""

import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sttm
from sttm.errors import ConfigError, SttmError
from sttm.evaluation.config import EvalConfig, VideoItems, by_video
from sttm.evaluation.evaluate import evaluate
from sttm.evaluation.executor import run_jobs
from sttm.evaluation.features.extract import ExtractPlan, Failure, VideoJob, ready
from sttm.evaluation.record import AnswerRecord
from sttm.evaluation.specs import Setting
from sttm.evaluation.tasks import get_task
from sttm.nano.clips import make_clip
from sttm.nano.model import NANO_LAYER, load
from sttm.nano.mp4 import write_clip
from sttm.video import Sampling
from tests.distributed.tasks import dividing, doubling, dying

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'sttm[ray]'")
pytestmark = pytest.mark.slow

VIDEOS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all tests here: it takes seconds to start; executors use one that is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a default that Ray is about to change
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=128 * 2**20,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def two_workers(cluster: None) -> Any:
    from sttm.distributed import RayExecutor

    return RayExecutor(workers=2)


@pytest.fixture(scope="module")
def one_worker(cluster: None) -> Any:
    from sttm.distributed import RayExecutor

    return RayExecutor(workers=1, attempts=2)


@pytest.fixture(scope="module")
def plan() -> EvalConfig:
    method = sttm.STTM(keep=0.3)
    setting = Setting("sttm", 0.3, method, "sttm")
    return EvalConfig(
        get_task("needle"), (setting,), layer=NANO_LAYER, max_new_tokens=6, warm_up=False
    )


@pytest.fixture(scope="module")
def videos(plan: EvalConfig) -> list[VideoItems]:
    found = by_video(plan.task.items(None))[:VIDEOS]
    return [replace(video, items=video.items[:3]) for video in found]


@pytest.fixture(scope="module")
def alone(plan: EvalConfig, videos: list[VideoItems]) -> dict[str, AnswerRecord]:
    """The answers of a run in this process."""
    return untimed(evaluate(plan, load, videos, {}))


def untimed(answers: Iterator[AnswerRecord]) -> dict[str, AnswerRecord]:
    found = list(answers)
    known = {answer.question_id: replace(answer, times=None) for answer in found}
    assert len(known) == len(found)  # every question once
    return known


def load_and_die_once(marks: Path) -> tuple[Any, Any]:
    """Load nano so that one process of all is killed, in the middle of its first video."""
    model, processor = load()
    (marks / f"worker-{os.getpid()}").touch()
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == 3:
            try:
                (marks / "killed").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(count)
    return model, processor


def test_a_killed_worker_loses_no_answer(
    two_workers: Any,
    plan: EvalConfig,
    videos: list[VideoItems],
    alone: dict[str, AnswerRecord],
    tmp_path: Path,
) -> None:
    load_it = partial(load_and_die_once, tmp_path)
    known = {key: answer for key, answer in alone.items() if key == videos[0].items[1].question_id}
    found = untimed(evaluate(plan, load_it, videos, {"sttm 0.3": known}, execute=two_workers))
    assert not found.keys() & known.keys()  # what was written is not asked again
    assert {**found, **known} == alone
    assert all(answer.error is None for answer in found.values())
    assert (tmp_path / "killed").exists()
    assert len(list(tmp_path.glob("worker-*"))) == 3  # two, and one in place of the killed


def test_features_are_those_of_one_process(cluster: None, tmp_path: Path) -> None:
    from sttm.distributed import RayExecutor

    jobs = []
    for seed in (1, 2):
        write_clip(make_clip(seed, 4), tmp_path / f"{seed}.mp4")
        jobs.append(VideoJob.of_file(tmp_path / f"{seed}.mp4"))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    jobs.append(VideoJob.of_file(tmp_path / "bad.mp4"))
    sums: list[list[str]] = []
    # All in one batch of one worker, beside one by one in this process.
    for execute in (run_jobs, RayExecutor(workers=1, gpus=0, batch=3)):
        plan = ExtractPlan(tmp_path / f"out-{len(sums)}", Sampling())
        (plan.out / "videos").mkdir(parents=True)
        outcomes = list(execute(partial(ready, plan, load), jobs))
        assert [type(each) is Failure for each in outcomes] == [False, False, True]
        sums.append([each.sha256 for each in outcomes if not isinstance(each, Failure)])
        assert len(list((plan.out / "videos").iterdir())) == 2
    assert sums[0] == sums[1]


def test_errors_of_workers_arrive(one_worker: Any) -> None:
    found: list[int] = []
    with pytest.raises(RuntimeError, match=r"a worker failed:\n.*(\n.*)*ZeroDivisionError"):
        found.extend(one_worker(dividing, [1, 0]))
    assert found == [1]


def test_a_video_that_kills_its_workers_ends_the_run(one_worker: Any) -> None:
    found: list[int] = []
    with pytest.raises(SttmError, match="lost every time they were at 1, expected them to stay"):
        found.extend(one_worker(dying, [0, 1, 2]))
    assert 0 in found


def test_a_cluster_that_is_too_small_is_told(cluster: None) -> None:
    from sttm.distributed import RayExecutor

    with pytest.raises(ConfigError, match="--ray-gpus: got 1 per worker, expected at most"):
        list(RayExecutor(gpus=1)(doubling, [1]))
    with pytest.raises(ConfigError, match=r"--ray-workers: got 3 .* expected at most 2"):
        list(RayExecutor(workers=3)(doubling, [1, 2, 3]))
    assert list(RayExecutor()(doubling, [])) == []


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"batch": 0}, {"attempts": 0}, {"gpus": -1.0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    from sttm.distributed import RayExecutor

    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RayExecutor(**wrong)
