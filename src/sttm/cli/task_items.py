"""Questions of a task, without those rows that are wrong."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sttm.cli.output import note
from sttm.errors import ConfigError

if TYPE_CHECKING:
    from sttm.evaluation.tasks import Item, Task

_TOLD = 3  # rows; `sttm eval validate` lists all


def refuse_sampling(task: "Task", given: Mapping[str, object]) -> None:
    """Refuse sampling options for a task whose videos are made frame by frame.

    Args:
        task: such a task.
        given: the options by the names of their fields; None for those that were not given.

    Raises:
        ConfigError: one was given.
    """
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if names:
        raise ConfigError(
            f"got {' and '.join(names)} with the task {task.name}, expected none of these: its "
            "videos are made frame by frame."
        )


def refuse_data_root(task: "Task", data_root: Path | None) -> None:
    """Refuse a folder of data for a task that makes its own.

    Raises:
        ConfigError: there is one.
    """
    if task.made and data_root is not None:
        raise ConfigError(
            f"got --data-root with the task {task.name}, expected none: it makes its videos. Drop "
            "it."
        )


def sound_items(
    task: "Task", data_root: Path | None, *, videos: bool = True
) -> "tuple[list[Item], dict[str, int]]":
    """Read the questions of a task; rows that are wrong are told and left out.

    Args:
        task: the task.
        data_root: see `Task.read`.
        videos: look for the videos too; one that is not there leaves ``Item.video`` None.

    Returns:
        the sound ones, and how many problems of each kind the others have.

    Raises:
        ConfigError: there is no sound question.
    """
    found = task.read(data_root, videos=videos)
    bad = [problem for problem in found.problems if problem.kind != "video"]
    if not found.items:
        task.items(data_root, videos=videos)  # says what is wrong
        raise ConfigError(
            f"{task.name}: got no questions at all in {data_root}, expected at least one. See "
            f"`sttm eval validate {task.name}`."
        )
    for problem in bad[:_TOLD]:
        note(f"left out: {problem.where}: {problem.text}")
    if len(bad) > _TOLD:
        note(f"and {len(bad) - _TOLD} more; `sttm eval validate {task.name}` lists them.")
    return found.items, dict(Counter(problem.kind for problem in bad))
