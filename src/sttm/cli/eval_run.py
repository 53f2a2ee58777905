"""``sttm eval run``: answer the questions of a task with many settings, and keep every answer."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.cli.command import is_given, refuse_idle
from sttm.cli.eval_config import (
    config_of_preset,
    find_items,
    find_settings,
    find_tasks,
    sampled,
)
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
    option_fields,
    refuse_fps,
    taken,
    with_options,
)
from sttm.cli.output import command_line, milliseconds, note, percent, say, show_json, show_table
from sttm.cli.progress import progress_bars
from sttm.cli.reduction import Wanted
from sttm.cli.task_items import refuse_data_root
from sttm.errors import ConfigError, SttmError
from sttm.evaluation.config import EvalConfig, folder_name
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.resumable import ResumableRun


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
            help="Scenes of a made task: frames=16,32 count=100 kinds=static,cut "
            "task_types=digit,pan seed=50000000. With several lengths all is run for each.",
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
    max_frames: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N...", help="In place of the task's; with several all is run for each."
        ),
    ] = None,
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
    from sttm.evaluation.resumable import ResumableRun

    if full:
        why = "all tokens are kept, in front of every layer and where they are"
        refuse_idle(context, ["layer", "positions"], "--full", why)
    if preset is None:
        refuse_for_nano(context, options["model"])
    refuse_fps(context, rule)
    model, executor = taken(ModelOptions, options), taken(ExecutorOptions, options)
    names = [each.name for each in option_fields(EvalConfig)]
    given: dict[str, Any] = {n: options[n] for n in names if is_given(context, n)}
    single = Wanted(None, thresholds, max_tokens, None, full)
    if preset is not None:
        config, model = config_of_preset(context, preset, model)
        configs = [replace(config, **given)]
    else:
        settings = find_settings(context, method or [], keep or [], single, model.model)
        configs = [EvalConfig(each, settings, **given) for each in find_tasks(task, scenes or [])]
    refuse_data_root(configs[0].task, data_root)
    sampling = {"fps": fps, "rule": rule and rule.value}
    lengths: list[int | None] = [*(max_frames or [])] or [None]
    configs = [sampled(c, {**sampling, "max_frames": n}) for c in configs for n in lengths]
    stop = on_error is OnError.STOP
    questions = [find_items(each, data_root, limit=limit, stop=stop) for each in configs]
    execute = executor.execute()  # without Ray this fails now, not after loading the model
    if threads is not None and not executor.here:
        raise ConfigError(f"got --threads {threads} with workers, which have one each. Drop it.")
    set_threads(threads)
    folders = _folders(configs, out)
    loaded = load_model(*model.arguments)
    runs = [
        ResumableRun(_as_loaded(each, loaded), items, there, loaded.name, loaded.model, left_out)
        for each, (items, left_out), there in zip(configs, questions, folders, strict=True)
    ]
    about = {"command": command_line(), "preset": preset, "limit": limit}
    about |= {"processes": executor.processes, "ray": executor.ray}
    pair = (loaded.model, loaded.processor)
    load = (lambda: pair) if executor.here else partial(load_pair, *model.arguments)
    with progress_bars(quiet=json) as tell:
        for each in runs:
            each.answer(load, execute=execute, about=about, stop=stop, tell=tell, note=note)
    _sum_up(runs, json=json)


def _folders(configs: Sequence[EvalConfig], out: Path | None) -> list[dict[str, Path]]:
    """Make a folder for each length of videos and setting; for a single one it is ``out`` itself.

    Returns:
        the folders by setting, for each configuration.
    """
    from sttm.evaluation.record import ANSWERS
    from sttm.evaluation.runs import find_runs, refuse_needle_log
    from sttm.evaluation.specs import check_frames

    lengths = [config.num_frames for config in configs]
    if len(lengths) > 1:
        check_frames(lengths)
    several = len(lengths) > 1 or len(configs[0].settings) > 1
    one = not several and out is not None and find_runs(out) in ([], [out])
    out = out or Path("out/eval", configs[0].task.name)
    refuse_needle_log(out / ANSWERS)
    if not one and (out / ANSWERS).is_file():
        raise ConfigError(
            f"{out}: got the answers of one setting in it, expected a folder for those of several. "
            "Choose another --out."
        )
    found = []
    for config, length in zip(configs, lengths):
        above = out / f"{length}-frames" if len(lengths) > 1 else out
        found.append({str(s): out if one else above / folder_name(s) for s in config.settings})
    for folder in [folder for folders in found for folder in folders.values()]:
        make_folder(folder)
    return found


def _as_loaded(config: EvalConfig, loaded: Loaded) -> EvalConfig:
    """Fill in what depends on the model."""
    layer = loaded.layer if config.layer is None else config.layer
    positions = loaded.positions if config.positions == "auto" else config.positions
    return replace(config, layer=layer, positions=positions)


def _sum_up(runs: "Sequence[ResumableRun]", *, json: bool) -> None:
    """Print the summaries; refuse to call it a success that nothing was answered.

    Raises:
        SttmError: nothing was.
    """
    summaries = [each.summary(setting) for each in runs for setting in each.config.settings]
    if json:
        show_json(summaries[0] if len(summaries) == 1 else {"settings": summaries})
    else:
        _show(summaries)
    if not any(summary["answered"] for summary in summaries):
        summary = summaries[0]
        why = ", ".join(f"{n} {kind}" for kind, n in sorted(summary["errors"].items()))
        raise SttmError(
            f"got no answer to any of {summary['questions']} questions ({why}), expected at "
            f"least one. {summary['out']} says why for each; run the same command again then."
        )


def _show(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Print the summaries: one from top to bottom, several in lines, a table for each length."""
    from sttm.evaluation.runs import Summary

    lengths = list(dict.fromkeys(summary["frames"] for summary in summaries))
    if len(summaries) == 1:
        show_table(("", ""), list(_cells(summaries[0]).items()))
    for length in lengths if len(summaries) > 1 else []:
        lines = [_short(summary) for summary in summaries if summary["frames"] == length]
        title = f"{summaries[0]['task']}, {summaries[0]['model']}"
        title = f"{title}, {length} frames" if len(lengths) > 1 else title
        show_table(list(lines[0]), [list(line.values()) for line in lines], title=title)
    for summary in summaries:
        which = f"{summary['method']}: " if len(summaries) > 1 else ""
        which = f"{summary['frames']} frames, {which}" if len(lengths) > 1 else which
        counts = {name: summary[name] for name in Summary.__dataclass_fields__}
        for line in Summary(**counts).troubles():
            note(which + line)
    for kind, count in summaries[0]["left_out"].items():
        note(f"{count} rows of the data set left out: {kind}")
    out = commonpath([str(Path(summary["out"])) for summary in summaries])
    say(f"wrote {out}; sum up with: sttm eval report {shlex.quote(out)}")


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
