import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sttm.errors import ConfigError
from sttm.evaluation.executor import run_jobs
from tests.cli.marks import needs_nano

ROOT = Path(__file__).parents[2]
WAIT_S = 90.0  # on a busy machine; seconds as a rule


def wait_for(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT_S
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


def is_gone(process: int) -> bool:
    """Whether a process has ended, even if nobody has asked for its exit code yet."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return not Path("/proc/self").exists() or not Path(f"/proc/{process}").exists()
    return state == "Z"


def children(process: int) -> list[int]:
    """Find the processes that a process has started, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == process:
            child = int(stat.parent.name)
            found += [child, *children(child)]
    return found


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    silent: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, **silent)


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
@pytest.mark.parametrize("at", ["setup", "job", "result"])
def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path, at: str) -> None:
    """Wherever they are: getting ready, at a job, with results that nobody takes."""
    parent = start("-m", "tests.evaluation.sleepers", str(tmp_path), at)
    try:
        assert wait_for(lambda: len(list(tmp_path.iterdir())) == 2 or parent.poll() is not None)
    finally:
        parent.kill()
        parent.wait()
    workers = [int(file.name) for file in tmp_path.iterdir()]
    assert len(workers) == 2
    try:
        assert wait_for(lambda: all(map(is_gone, workers)))
    finally:
        for worker in workers:
            if not is_gone(worker):
                os.kill(worker, signal.SIGKILL)


def test_who_stops_early_does_not_wait_for_jobs_that_nobody_takes(tmp_path: Path) -> None:
    parent = start("-m", "tests.evaluation.sleepers", str(tmp_path), "first")
    try:
        assert wait_for(lambda: parent.poll() is not None)
        assert parent.returncode == 0
    finally:
        parent.kill()
        parent.wait()


@needs_nano
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("name", ["eval", "needle"])
def test_commands_leave_nothing_behind(tmp_path: Path, name: str) -> None:
    many = {
        "eval": ("eval", "run", "--task", "needle", "--keep", ".3"),
        "needle": ("bench", "needle", "--frames", "32", "--samples", "400"),
    }
    main = ("-c", "from sttm.cli import main; main()", *many[name])
    parent = start(*main, "--processes", "2", "--out", str(tmp_path))
    found: list[int] = []
    try:
        # The two workers, and the process that Python cleans up with.
        assert wait_for(lambda: len(children(parent.pid)) >= 3 or parent.poll() is not None)
        found = children(parent.pid)
        assert len(found) >= 3
    finally:
        parent.kill()
        parent.wait()
    try:
        assert wait_for(lambda: all(map(is_gone, found)))
    finally:
        for process in found:
            if not is_gone(process):
                os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("processes", [0, -1, 2.0, "2", True, 10**6, None])
def test_processes_are_a_number(processes: Any) -> None:
    with pytest.raises(ConfigError, match="processes: got"):
        list(run_jobs(lambda: lambda job: [job], [1, 2], processes=processes))
