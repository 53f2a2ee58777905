"""A run that keeps its answers as they come, and goes on where an earlier one stood."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sttm.errors import ConfigError, SttmError
from sttm.evaluation.config import EvalConfig, by_video
from sttm.evaluation.environment import environment
from sttm.evaluation.evaluate import Job, evaluate
from sttm.evaluation.executor import Execute, Loader, run_jobs
from sttm.evaluation.record import ANSWERS, RUN, AnswerRecord
from sttm.evaluation.result_log import ResultLog, read_log
from sttm.evaluation.runs import refuse_needle_log, summarize
from sttm.evaluation.specs import Setting
from sttm.evaluation.tasks import Item, Scored
from sttm.files import write_json

Logs = Mapping[str, "ResultLog[AnswerRecord]"]


@dataclass(frozen=True)
class ResumableRun:
    """The questions of a task to one model with every setting, and the folders of the answers.

    Args:
        config: what to run.
        items: what to ask.
        folders: where answers go, by setting; they exist.
        name: of the model.
        model: the model.
        left_out: rows of the data set that are not asked, by kind of problem.
    """

    config: EvalConfig
    items: Sequence[Item]
    folders: Mapping[str, Path]
    name: str
    model: Any
    left_out: Mapping[str, int]

    def answer(
        self,
        load: Loader,
        *,
        execute: Execute[Job, AnswerRecord] = run_jobs,
        about: Mapping[str, Any] | None = None,
        stop: bool = True,
        tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Answer what is missing.

        Args:
            load: gives the model and its processor; called once per worker.
            execute: where to work.
            about: what else to note in each ``run.json``, JSON values.
            stop: raise at the first error, instead of going on with the other questions.
            tell: is told the stage, and how many answers of how many are there.
            note: is told what answers are there already.

        Raises:
            ConfigError: a folder holds answers of other settings, questions or code.
            SttmError: something went wrong, and ``stop``.
        """
        videos = by_video(self.items)
        with self._logs(len(videos), about or {}, note) as logs:
            known = {name: dict(log.known) for name, log in logs.items()}
            ids = {item.question_id for item in self.items}
            done = sum(
                key in ids and a.settled for some in known.values() for key, a in some.items()
            )
            total = len(ids) * len(logs)
            tell("answer", done, total)
            for answer in evaluate(self.config, load, videos, known, execute=execute):
                logs[answer.setting].add([answer])
                if stop and not answer.settled:
                    raise SttmError(
                        f"{answer.question_id}: {answer.error}: {answer.message} The answers so "
                        f"far are kept in {self.folders[answer.setting]}; --on-error skip goes on "
                        "without."
                    )
                done += 1
                tell("answer", done, total)

    @contextmanager
    def _logs(
        self, videos: int, about: Mapping[str, Any], note: Callable[[str], None]
    ) -> Iterator[Logs]:
        """Open the result log of every setting."""
        machine = environment(self.model.device)
        info = {**machine, "task": self.config.task.model_dump(mode="json", by_alias=True)}
        begun = {
            **about,
            "questions": len(self.items),
            "videos": videos,
            "left_out": dict(self.left_out),
            "machine": machine,
        }
        logs = {}
        with ExitStack() as stack:
            for name, identity in self.config.identities(self.name, self.model).items():
                path = self.folders[name] / ANSWERS
                refuse_needle_log(path)
                log = ResultLog(path, identity, info, AnswerRecord, replaceable=_is_open)
                logs[name] = stack.enter_context(log)
                _check_resumed(log, machine, note)
            for folder in self.folders.values():
                write_json(folder / RUN, begun)
            yield logs

    def summary(self, setting: Setting) -> dict[str, Any]:
        """Sum up what the folder of a setting holds about the questions of this run."""
        task, folder = self.config.task, self.folders[str(setting)]
        answers = read_log(folder / ANSWERS, AnswerRecord).answers
        here = [answers[item.question_id] for item in self.items if item.question_id in answers]
        scored = [Scored(answer.item(task.name), answer.right, answer.parsed) for answer in here]
        return {
            "task": task.name,
            "model": self.name,
            "method": str(setting),
            "frames": self.config.num_frames,
            "questions": len(self.items),
            "left_out": dict(self.left_out),
            **asdict(summarize(here)),
            "metrics": {
                name: {"value": m.value, "n": m.n, "missing": m.missing, "unit": m.unit}
                for name, m in task.metrics(scored, self.items).items()
            },
            "out": str(folder),
        }


def _is_open(answer: AnswerRecord) -> bool:
    return not answer.settled


def _check_resumed(
    log: ResultLog[AnswerRecord], machine: Mapping[str, Any], note: Callable[[str], None]
) -> None:
    """Tell that a log goes on; refuse to mix answers of two versions of the code.

    Raises:
        ConfigError: the answers that are there are of another one.
    """
    if not log.known:
        return
    if log.info.get("code") != machine["code"]:
        raise ConfigError(
            f"{log.path}: got answers of another version of the code (commit "
            f"{log.info.get('commit')}, now {machine['commit']}), expected the same: they cannot "
            "be mixed. Choose another --out, or go on with that version."
        )
    errors = sum(map(_is_open, log.known.values()))
    again = f"; {errors} with errors are tried again" if errors else ""
    note(
        f"{log.path} has {len(log.known) - errors} answers already; only others are asked for"
        f"{again}."
    )
