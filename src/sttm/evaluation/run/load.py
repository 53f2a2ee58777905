"""Read the folders that runs wrote."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sttm.errors import ConfigError
from sttm.evaluation.journal import read_journal
from sttm.evaluation.run.plan import PUBLISHED
from sttm.evaluation.run.reading import read_answer
from sttm.evaluation.run.records import ANSWERS, RUN, EvalAnswer
from sttm.evaluation.specs import ALL
from sttm.evaluation.tasks import Scored, Task

# What two runs may differ in and still show what the method did.
_OF_THE_METHOD = {"method", "spec", "keep", "options", "layer", "positions"}
_WITHOUT_EFFECT = {"reproduce", "seed"}


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Args:
        name: of its folder; told apart from the others in a report.
        folder: where it is.
        settings: what its answers depend on.
        about: how it was called last; empty if that is not there.
        task: as it was when the run began.
        answers: by question, errors included.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    about: Mapping[str, Any]
    task: Task
    answers: Mapping[str, EvalAnswer]

    @property
    def full(self) -> bool:
        """Whether it kept all tokens."""
        return bool(self.settings["method"] == ALL)

    @property
    def method(self) -> str:
        """Name of the method in the registry; "all" for all tokens."""
        return str(self.settings["spec"]).split(":")[0]

    @property
    def preset(self) -> str | None:
        """The preset that it was made with."""
        name = self.about.get("preset")
        return None if name is None else str(name)

    @property
    def left(self) -> int:
        """Questions that were meant to be asked and have no line yet."""
        return max(0, int(self.about.get("questions", 0)) - len(self.answers))

    def scored(
        self, only: Sequence[str] | None = None, *, empty_wrong: bool = False
    ) -> list[Scored]:
        """Give the answers as a task's metrics take them; what is not scored has None.

        Args:
            only: ids of questions; None for all.
            empty_wrong: have empty answers wrong, whatever the parser makes of them.
        """
        answers = [self.answers[name] for name in (self.answers if only is None else only)]
        return [
            Scored(each.item(self.task.name), False if empty_wrong and each.empty else each.right)
            for each in answers
        ]

    def differs(self, other: "Run") -> list[str]:
        """Name the settings, beside the method's, in which two runs differ."""
        mine, others = _compared(self.settings), _compared(other.settings)
        return sorted(n for n in {*mine, *others} if mine.get(n) != others.get(n))


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    left_out = _OF_THE_METHOD | _WITHOUT_EFFECT
    found = {name: value for name, value in settings.items() if name not in left_out}
    # Features of our own give the answers of the videos, those that others made need not.
    if not str(found.get("features")).startswith(PUBLISHED):
        found.pop("features", None)
    return found


def load_runs(folders: Sequence[Path], *, parser: str | None = None) -> list[Run]:
    """Read runs.

    Args:
        folders: of `sttm eval run`.
        parser: read the answers anew with this parser; None as they were read.

    Raises:
        ConfigError: a folder holds no run, or is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, path in zip(folders, paths) if paths.count(path) > 1]
    if twice:
        raise ConfigError(f"got {twice[0]} twice, expected every run once.")
    runs = [_load(folder) for folder in folders]
    if parser is not None:
        runs = [_parsed_anew(run, parser) for run in runs]
    return [replace(run, name=name) for run, name in zip(runs, _names(folders))]


def _load(folder: Path) -> Run:
    if not (folder / ANSWERS).is_file():
        raise ConfigError(
            f"{folder}: got no {ANSWERS} in it, expected the folder of an `sttm eval run`."
        )
    stored = read_journal(folder / ANSWERS, EvalAnswer)
    try:
        task = Task.model_validate(stored.info.get("task"))
    except ValidationError as error:
        raise ConfigError(
            f"{folder}: got answers of another version of sttm, whose task cannot be read "
            f"({error.error_count()} fields). Run it again into another --out."
        ) from error
    if stored.settings.get("benchmark") != "eval":
        raise ConfigError(f"{folder}: got answers of another benchmark, expected `sttm eval run`.")
    if not task.groups:
        # A user's own questions bring groups of their own.
        own = sorted({name for answer in stored.answers.values() for name in answer.groups})
        task = task.model_copy(update={"groups": tuple(own)})
    return Run(folder.name, folder, stored.settings, _about(folder), task, stored.answers)


def _about(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _parsed_anew(run: Run, parser: str) -> Run:
    task = run.task
    answers = {}
    for name, answer in run.answers.items():
        if answer.text is not None:
            read = read_answer(task, answer.item(task.name), answer.text, parser)
            answer = replace(answer, **vars(read))
        answers[name] = answer
    return replace(run, answers=answers, settings={**run.settings, "parser": parser})


def _names(folders: Sequence[Path]) -> list[str]:
    """Name runs by their folders; with as many parents as it takes to tell them apart."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    depth = 1
    while any(count > 1 for count in Counter(names).values()):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return names
