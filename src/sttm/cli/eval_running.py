"""Do what `sttm eval run` was asked for: answer, sum up and show."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from sttm.cli.eval_preparing import Work
from sttm.cli.loading import load_pair
from sttm.cli.options import describe_method
from sttm.cli.output import command_line, milliseconds, note, note_resumed, percent, say, show_table
from sttm.cli.progress import Tell
from sttm.errors import SttmError

if TYPE_CHECKING:
    from sttm.evaluation.journal import Journal
    from sttm.evaluation.run.records import EvalAnswer


def execute(work: Work, tell: Tell) -> None:
    """Answer what is missing.

    Raises:
        SttmError: something went wrong, and ``--on-error stop``.
    """
    from sttm.evaluation.run.execute import run

    asked, plan = work.asked, work.plan
    with _journal(work) as journal:
        ids = {item.question_id for item in work.items}
        total = len(ids)
        done = {key for key, a in journal.known.items() if key in ids and a.error is None}
        tell("answer", len(done), total)
        load = (
            (lambda: (work.loaded.model, work.loaded.processor))
            if asked.spread.here
            else partial(load_pair, asked.model, asked.device_map, asked.dtype, asked.newline)
        )
        for answer in run(plan, load, work.videos, dict(journal.known), execute=work.execute):
            journal.add([answer])
            if answer.error is not None and asked.stop:
                raise SttmError(
                    f"{answer.question_id}: {answer.error}: {answer.message} The answers so far "
                    f"are kept in {work.out}; --on-error skip goes on without."
                )
            done.add(answer.question_id)
            tell("answer", len(done), total)


@contextmanager
def _journal(work: Work) -> "Iterator[Journal[EvalAnswer]]":
    from sttm.evaluation.journal import Journal
    from sttm.evaluation.machine import environment
    from sttm.evaluation.run.records import ANSWERS, RUN, EvalAnswer
    from sttm.files import write_json

    machine = environment(work.loaded.model.device)
    identity = work.plan.identity(work.loaded.name, work.loaded.model)
    info = {**machine, "task": work.plan.task.model_dump(mode="json", by_alias=True)}
    path = work.out / ANSWERS
    with Journal(path, identity, info, EvalAnswer, replaceable=_failed) as journal:
        _tell_resumed(journal, machine)
        begun = {
            "command": command_line(),
            "preset": work.asked.preset,
            "questions": len(work.items),
            "videos": len(work.videos),
            "left_out": dict(work.bad_rows),
            "limit": work.asked.limit,
            "processes": work.asked.spread.processes,
            "ray": work.asked.spread.ray,
            "machine": machine,
        }
        write_json(work.out / RUN, begun)
        yield journal


def _failed(answer: "EvalAnswer") -> bool:
    return answer.error is not None


def _tell_resumed(journal: "Journal[EvalAnswer]", machine: Mapping[str, Any]) -> None:
    if not journal.known:
        return
    errors = sum(answer.error is not None for answer in journal.known.values())
    again = f"; {errors} with errors are tried again" if errors else ""
    there = f"{len(journal.known) - errors} answers already; only others are asked for{again}"
    note_resumed(journal, machine["code"], there)


def finish(work: Work) -> dict[str, Any]:
    """Sum up what the folder holds about the questions of this run."""
    from sttm.evaluation.journal import read_journal
    from sttm.evaluation.run.records import ANSWERS, EvalAnswer
    from sttm.evaluation.run.summary import sum_up
    from sttm.evaluation.tasks import Scored

    task, items = work.plan.task, work.items
    answers = read_journal(work.out / ANSWERS, EvalAnswer).answers
    here = [answers[item.question_id] for item in items if item.question_id in answers]
    scored = [Scored(answer.item(task.name), answer.right) for answer in here]
    metrics = task.metrics(scored, items)
    return {
        "task": task.name,
        "model": work.loaded.name,
        "method": str(work.plan.setting),
        "questions": len(items),
        "left_out": dict(work.bad_rows),
        **asdict(sum_up(here)),
        "metrics": {
            name: {"value": m.value, "n": m.n, "missing": m.missing, "unit": m.unit}
            for name, m in metrics.items()
        },
        "out": str(work.out),
    }


def check_answered(summary: Mapping[str, Any]) -> None:
    """Refuse to call it a success that nothing was answered.

    Raises:
        SttmError: nothing was.
    """
    if not summary["answered"]:
        why = ", ".join(f"{n} {kind}" for kind, n in sorted(summary["errors"].items()))
        raise SttmError(
            f"got no answer to any of {summary['questions']} questions ({why}), expected at "
            f"least one. {summary['out']} says why for each; run the same command again then."
        )


def show(work: Work, summary: Mapping[str, Any]) -> None:
    """Print the summary."""
    rows: list[tuple[str, str]] = [
        ("task", str(summary["task"])),
        ("model", str(summary["model"])),
        ("method", describe_method(work.plan.setting.method)),
        ("answered", f"{summary['answered']} of {summary['questions']} questions"),
    ]
    for name, metric in summary["metrics"].items():
        value = "-" if metric["value"] is None else percent(metric["value"])
        rows.append((f"accuracy, {name}", f"{value} of {metric['n']} {metric['unit']}"))
    if summary["retention"] is not None:
        kept = f"{summary['tokens_out']:.1f} of {summary['tokens_in']:.1f} video tokens"
        rows.append(("retention", f"{percent(summary['retention'])} ({kept})"))
    for name, title in (("ttft_s", "TTFT"), ("seconds", "end to end"), ("paid_s", "spent")):
        if summary[name] is not None:
            rows.append((f"{title}, per question", milliseconds(summary[name])))
    show_table(("", ""), rows)
    for line in _troubles(work, summary):
        note(line)
    say(f"wrote {work.out}; sum up with: sttm eval report {shlex.quote(str(work.out))}")


def _troubles(work: Work, summary: Mapping[str, Any]) -> list[str]:
    from sttm.evaluation.run.summary import Summary

    names = Summary.__dataclass_fields__
    lines = Summary(**{name: summary[name] for name in names}).troubles()
    lines += [f"{n} rows of the data set left out: {kind}" for kind, n in work.bad_rows.items()]
    return lines
