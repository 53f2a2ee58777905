"""``sttm eval run``: answer the questions of a task with many settings, and keep every answer."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.budget import read_keep
from sttm.cli.command import is_given, refuse_idle, refuse_unused
from sttm.cli.executor_options import ExecutorOptions, set_threads
from sttm.cli.loading import Loaded, load_model, load_pair, refuse_for_nano
from sttm.cli.options import (
    JsonOption,
    MaxTokensOption,
    ModelOptions,
    OnError,
    OnErrorOption,
    RuleOption,
    ThresholdsOption,
    Wanted,
    option_fields,
    parse_reduction,
    refuse_fps,
    taken,
    with_options,
)
from sttm.cli.output import (
    command_line,
    milliseconds,
    note,
    note_resumed,
    percent,
    say,
    show_json,
    show_table,
)
from sttm.cli.progress import Tell, progress_bars
from sttm.cli.task_items import refuse_data_root, refuse_sampling, sound_items
from sttm.errors import ConfigError, SttmError
from sttm.evaluation.config import EvalConfig, by_video, folder_name
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.config import VideoItems
    from sttm.evaluation.record import AnswerRecord
    from sttm.evaluation.result_log import ResultLog
    from sttm.evaluation.specs import Setting
    from sttm.evaluation.tasks import Item, Task


@with_options(ModelOptions, EvalConfig, ExecutorOptions)
def run(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Option("--task", help="A task of `sttm eval tasks`, or a YAML file.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A row of the paper, see `sttm eval presets`; sets the rest."
        ),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that holds the data sets.")
    ] = None,
    scenes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE...",
            help="Scenes of a made task: frames=32 count=100 kinds=static,cut seed=50000000.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC...",
            help="Methods: NAME, NAME:option=value,option=value, or LABEL= one of these. With "
            "keep= among the options a method runs once, at its own budget. Default: sttm.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            "-k",
            metavar="R|N...",
            help="Budgets, as shares (0.3 or 30%) or counts (512); 1 is all tokens, once.",
        ),
    ] = None,
    thresholds: ThresholdsOption = None,
    max_tokens: MaxTokensOption = None,
    full: Annotated[bool, typer.Option("--full", help="Keep every token.")] = False,
    fps: Annotated[float | None, typer.Option(help="In place of the task's.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="In place of the task's.")] = None,
    rule: RuleOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first questions; more may be asked later.")
    ] = None,
    on_error: OnErrorOption = OnError.STOP,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of PyTorch, with one process.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder to write to; with several settings a folder in it for each.",
        ),
    ] = None,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Ask all questions of a task with one model, and any methods at any budgets.

    Every answer is a line of an answers.jsonl as soon as it is there. A run that was cut off goes
    on when the same command is given again: nothing is lost or asked twice, and what went wrong is
    tried again. `sttm eval report DIR...` sums up.
    """
    if full:
        why = "all tokens are kept, in front of every layer and where they are"
        refuse_idle(context, ["layer", "positions"], "--full", why)
    if preset is None:
        refuse_for_nano(context, options["model"])
    refuse_fps(context, rule)
    model, executor = taken(ModelOptions, options), taken(ExecutorOptions, options)
    given: dict[str, Any] = {
        each.name: options[each.name]
        for each in option_fields(EvalConfig)
        if is_given(context, each.name)
    }
    if preset is not None:
        config, model = _of_preset(context, preset, model)
        config = replace(config, **given)
    else:
        if task is None:
            raise ConfigError("got no --task, expected one of `sttm eval tasks`, or a --preset.")
        of_task = _task(task, scenes)
        refuse_data_root(of_task, data_root)
        single = Wanted(None, thresholds, max_tokens, None, full)
        settings = _settings(context, method or [], keep or [], single, model.model)
        config = EvalConfig(of_task, tuple(settings), **given)
    refuse_data_root(config.task, data_root)
    sampling = {"fps": fps, "max_frames": max_frames, "rule": rule and rule.value}
    config = _sampled(config, sampling)
    stop = on_error is OnError.STOP
    items, bad_rows = _items(config, data_root, stop=stop)
    execute = executor.execute()  # without Ray this fails now, not after loading the model
    if threads is not None and not executor.here:
        raise ConfigError(f"got --threads {threads} with workers, which have one each. Drop it.")
    set_threads(threads)
    folders = _folders(config, out)
    loaded = load_model(*model.arguments)
    work = Work(config, items[:limit], bad_rows, folders, loaded, model, executor)
    begun = {"preset": preset, "limit": limit}
    with progress_bars(quiet=json) as tell:
        work.answer(tell, begun, execute, stop=stop)
    summaries = [work.summary(setting) for setting in work.config.settings]
    if json:
        show_json(summaries[0] if len(summaries) == 1 else {"settings": summaries})
    else:
        _show(work, summaries)
    _check_answered(summaries)


def _of_preset(
    context: typer.Context, name: str, model: ModelOptions
) -> tuple[EvalConfig, ModelOptions]:
    """Set up a preset; a model and newline tokens that were given win."""
    from sttm.evaluation.presets import get_preset

    preset = get_preset(name)
    why = "it names the task, the method and the budget; expected it alone"
    names = ["task", "method", "keep", "thresholds", "max_tokens", "full", "scenes"]
    refuse_idle(context, names, "--preset", why)
    if preset.note:
        note(f"{preset.name}: {preset.note}")
    newline = model.newline or preset.newline
    return preset.config(), replace(model, model=model.model or preset.model, newline=newline)


def _task(name: str, scenes: Sequence[str] | None) -> "Task":
    """Load a task; with other scenes to make."""
    from pydantic import ValidationError

    from sttm.evaluation.tasks import get_task

    task = get_task(name)
    if not scenes:
        return task
    if not task.made:
        raise ConfigError(f"got --scenes with the task {task.name}, which has videos. Drop it.")
    values: dict[str, Any] = {}
    for text in scenes:
        name, _, values[name] = text.partition("=")
    if "kinds" in values:
        values["kinds"] = values["kinds"].split(",")
    try:
        made = type(task.scenes).model_validate({**task.scenes.model_dump(), **values})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"--scenes: got {' '.join(scenes)} ({wrong}), expected frames=, count=, kinds=, seed=."
        ) from error
    return task.model_copy(update={"scenes": made})


def _settings(
    context: typer.Context,
    methods: Sequence[str],
    keeps: Sequence[str],
    single: Wanted,
    model: str | None,
) -> "list[Setting]":
    """Cross methods with budgets; without several of either, as in `sttm ask`."""
    from sttm.evaluation.specs import ALL_TOKENS, Setting, make_settings, parse_spec

    if len(methods) < 2 and len(keeps) < 2:
        wanted = replace(single, method="".join(methods) or None, keep="".join(keeps) or None)
        method = parse_reduction(wanted, model=model).method
        if method is None:
            return [ALL_TOKENS]
        spec = parse_spec(wanted.method or method.name)
        label = spec.label
        if wanted.thresholds is not None:
            label = re.sub(r"[^\w.+/ -]", " ", f"{label} {wanted.thresholds}")
        return [Setting(label, getattr(method, "keep", None), method, spec.text)]
    if single.given():
        raise ConfigError(
            f"got {', '.join(single.given())} with several methods or budgets, expected one. "
            "Write thresholds as options of a method: sttm:keep=none,spatial_threshold=0.8."
        )
    idle = [text for text in methods if parse_spec(text).swept and not keeps]
    if idle:
        raise ConfigError(
            f"got --method {idle[0]} without --keep, expected budgets: --keep 0.5 0.3."
        )
    budgets = [read_keep(text, "--keep") for text in keeps]
    settings = make_settings(methods or ["sttm"], budgets)
    refuse_unused(context, settings, budgets, "method")
    return [replace(s, keep=s.keep or getattr(s.method, "keep", None)) for s in settings]


def _sampled(config: EvalConfig, sampling: Mapping[str, Any]) -> EvalConfig:
    """Change the sampling as far as it was given."""
    changed = {name: value for name, value in sampling.items() if value is not None}
    if config.task.made:
        refuse_sampling(config.task, changed)
    return replace(config, sampling=replace(config.frames, **changed)) if changed else config


def _items(
    config: EvalConfig, data_root: Path | None, *, stop: bool
) -> "tuple[list[Item], Mapping[str, int]]":
    """Read the questions; with ``--on-error skip`` go on without those that are wrong."""
    task, look = config.task, config.features is None
    bad_rows: Mapping[str, int] = {}
    if stop:
        items = task.items(data_root, videos=look)
    else:
        items, bad_rows = sound_items(task, data_root, videos=look)
    without = [item for item in items if item.video is None]
    if not without or not look or task.made:
        return items, bad_rows
    videos = list(dict.fromkeys(item.video_id for item in without))
    text = (
        f"videos of {task.name} are missing: {len(videos)} ({', '.join(videos[:3])}"
        f"{', ...' if len(videos) > 3 else ''}), for {len(without)} of {len(items)} questions"
    )
    if stop:
        raise ConfigError(
            f"{text}; expected all. `sttm eval validate {task.name} --data-root {data_root}` tells "
            "how to get them; --on-error skip goes on."
        )
    note(f"{text}; they are not asked, and not scored.")
    return items, bad_rows


def _folders(config: EvalConfig, out: Path | None) -> dict[str, Path]:
    """Make a folder for each setting: ``out`` itself, or folders in it where there are several."""
    from sttm.evaluation.record import ANSWERS
    from sttm.evaluation.runs import refuse_needle_log

    one = len(config.settings) == 1 and out is not None and not list(out.glob(f"*/{ANSWERS}"))
    out = out or Path("out/eval", config.task.name)
    refuse_needle_log(out / ANSWERS)
    if not one and (out / ANSWERS).is_file():
        raise ConfigError(
            f"{out}: got the answers of one setting in it, expected a folder for those of several. "
            "Choose another --out."
        )
    folders = {str(s): out if one else out / folder_name(s) for s in config.settings}
    for folder in folders.values():
        make_folder(folder)
    return folders


@dataclass(frozen=True)
class Work:
    """A run that is about to begin.

    Args:
        config: what to run.
        items: what to ask.
        bad_rows: rows of the data set that are left out, by kind of problem.
        folders: where answers go, by setting.
        loaded: the model.
        model: how it was asked for.
        executor: where the work is done.
    """

    config: EvalConfig
    items: "Sequence[Item]"
    bad_rows: Mapping[str, int]
    folders: Mapping[str, Path]
    loaded: Loaded
    model: ModelOptions
    executor: ExecutorOptions

    def answer(self, tell: Tell, begun: Mapping[str, Any], execute: Any, *, stop: bool) -> None:
        """Answer what is missing.

        Raises:
            SttmError: something went wrong, and ``stop``.
        """
        from sttm.evaluation.evaluate import evaluate

        config = self._for_model()
        videos = by_video(self.items)
        with self._logs(config, videos, begun) as logs:
            known = {name: dict(log.known) for name, log in logs.items()}
            ids = {item.question_id for item in self.items}
            done = sum(
                key in ids and a.settled for some in known.values() for key, a in some.items()
            )
            total = len(ids) * len(logs)
            tell("answer", done, total)
            load: Any = partial(load_pair, *self.model.arguments)
            if self.executor.here:
                load = lambda: (self.loaded.model, self.loaded.processor)  # noqa: E731
            for answer in evaluate(config, load, videos, known, execute=execute):
                logs[answer.setting].add([answer])
                if stop and not answer.settled:
                    raise SttmError(
                        f"{answer.question_id}: {answer.error}: {answer.message} The answers so "
                        f"far are kept in {self.folders[answer.setting]}; --on-error skip goes on "
                        "without."
                    )
                done += 1
                tell("answer", done, total)

    def _for_model(self) -> EvalConfig:
        """Fill in what depends on the model."""
        config, loaded = self.config, self.loaded
        layer = loaded.layer if config.layer is None else config.layer
        positions = loaded.positions if config.positions == "auto" else config.positions
        return replace(config, layer=layer, positions=positions)

    @contextmanager
    def _logs(
        self, config: EvalConfig, videos: "Sequence[VideoItems]", begun: Mapping[str, Any]
    ) -> "Iterator[dict[str, ResultLog[AnswerRecord]]]":
        from sttm.evaluation.environment import environment
        from sttm.evaluation.record import ANSWERS, RUN, AnswerRecord
        from sttm.evaluation.result_log import ResultLog
        from sttm.files import write_json

        machine = environment(self.loaded.model.device)
        info = {**machine, "task": config.task.model_dump(mode="json", by_alias=True)}
        begun = {
            "command": command_line(),
            **begun,
            "questions": len(self.items),
            "videos": len(videos),
            "left_out": dict(self.bad_rows),
            "processes": self.executor.processes,
            "ray": self.executor.ray,
            "machine": machine,
        }
        logs = {}
        with ExitStack() as stack:
            for name, identity in config.identities(self.loaded.name, self.loaded.model).items():
                path = self.folders[name] / ANSWERS
                log = ResultLog(path, identity, info, AnswerRecord, replaceable=_is_open)
                logs[name] = stack.enter_context(log)
                _tell_resumed(log, machine)
            for folder in self.folders.values():
                write_json(folder / RUN, begun)
            yield logs

    def summary(self, setting: "Setting") -> dict[str, Any]:
        """Sum up what the folder of a setting holds about the questions of this run."""
        from sttm.evaluation.record import ANSWERS, AnswerRecord
        from sttm.evaluation.result_log import read_log
        from sttm.evaluation.runs import summarize
        from sttm.evaluation.tasks import Scored

        task, folder = self.config.task, self.folders[str(setting)]
        answers = read_log(folder / ANSWERS, AnswerRecord).answers
        here = [answers[item.question_id] for item in self.items if item.question_id in answers]
        scored = [Scored(answer.item(task.name), answer.right) for answer in here]
        return {
            "task": task.name,
            "model": self.loaded.name,
            "method": str(setting),
            "questions": len(self.items),
            "left_out": dict(self.bad_rows),
            **asdict(summarize(here)),
            "metrics": {
                name: {"value": m.value, "n": m.n, "missing": m.missing, "unit": m.unit}
                for name, m in task.metrics(scored, self.items).items()
            },
            "out": str(folder),
        }


def _is_open(answer: "AnswerRecord") -> bool:
    return not answer.settled


def _tell_resumed(log: "ResultLog[AnswerRecord]", machine: Mapping[str, Any]) -> None:
    if not log.known:
        return
    errors = sum(map(_is_open, log.known.values()))
    again = f"; {errors} with errors are tried again" if errors else ""
    there = f"{len(log.known) - errors} answers already; only others are asked for{again}"
    note_resumed(log, machine["code"], there)


def _check_answered(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to call it a success that nothing was answered.

    Raises:
        SttmError: nothing was.
    """
    if not any(summary["answered"] for summary in summaries):
        summary = summaries[0]
        why = ", ".join(f"{n} {kind}" for kind, n in sorted(summary["errors"].items()))
        raise SttmError(
            f"got no answer to any of {summary['questions']} questions ({why}), expected at "
            f"least one. {summary['out']} says why for each; run the same command again then."
        )


def _show(work: Work, summaries: Sequence[Mapping[str, Any]]) -> None:
    """Print the summaries: one from top to bottom, several in lines."""
    from sttm.evaluation.runs import Summary

    if len(summaries) == 1:
        show_table(("", ""), list(_cells(summaries[0]).items()))
    else:
        lines = [_short(summary) for summary in summaries]
        title = f"{summaries[0]['task']}, {work.loaded.name}"
        show_table(list(lines[0]), [list(line.values()) for line in lines], title=title)
    for summary in summaries:
        which = f"{summary['method']}: " if len(summaries) > 1 else ""
        counts = {name: summary[name] for name in Summary.__dataclass_fields__}
        for line in Summary(**counts).troubles():
            note(which + line)
    for kind, count in work.bad_rows.items():
        note(f"{count} rows of the data set left out: {kind}")
    folders = list(work.folders.values())
    out = folders[0].parent if len(folders) > 1 else folders[0]
    say(f"wrote {out}; sum up with: sttm eval report {shlex.quote(str(out))}")


def _short(summary: Mapping[str, Any]) -> dict[str, str]:
    cells = {"method": summary["method"], "answered": str(summary["answered"])}
    for name, metric in summary["metrics"].items():
        cells[f"accuracy, {name}"] = _or_none(percent, metric["value"])
    cells["retention"] = _or_none(percent, summary["retention"])
    return {**cells, "TTFT": _or_none(milliseconds, summary["ttft_s"])}


def _or_none(write: Callable[[float], str], value: float | None) -> str:
    return "-" if value is None else write(value)


def _cells(summary: Mapping[str, Any]) -> dict[str, str]:
    cells = {name: str(summary[name]) for name in ("task", "model", "method")}
    cells["answered"] = f"{summary['answered']} of {summary['questions']} questions"
    for name, metric in summary["metrics"].items():
        value = _or_none(percent, metric["value"])
        cells[f"accuracy, {name}"] = f"{value} of {metric['n']} {metric['unit']}"
    if summary["retention"] is not None:
        kept = f"{summary['tokens_out']:.1f} of {summary['tokens_in']:.1f} video tokens"
        cells["retention"] = f"{percent(summary['retention'])} ({kept})"
    for name, title in (("ttft_s", "TTFT"), ("seconds", "end to end"), ("paid_s", "spent")):
        if summary[name] is not None:
            cells[f"{title}, per question"] = milliseconds(summary[name])
    return cells
