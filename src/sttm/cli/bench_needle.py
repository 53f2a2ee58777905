"""``sttm bench needle``: right answers about generated scenes, against how much is kept."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.budget import read_keep
from sttm.cli.command import refuse_unused
from sttm.cli.loading import Loaded, load_model, load_pair
from sttm.cli.options import JsonOption, LayerOption, ModelOption, OnError, OnErrorOption
from sttm.cli.output import command_line, note, note_resumed, results, say, show_json, show_table
from sttm.cli.progress import Tell, progress_bars
from sttm.cli.spreading import set_threads
from sttm.errors import ConfigError, SttmError
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.journal import AnswerRecord, Journal
    from sttm.evaluation.needle import NeedlePlan
    from sttm.evaluation.report import Report

MOST_POSITIONS = "max_position_embeddings"
_METHODS = ["sttm", "random"]
_KEEP = ["1", "0.5", "0.3", "0.2", "0.1", "0.05"]
_FRAMES = [16, 32]


@dataclass(frozen=True)
class _Task:
    """What one call of the command is to do."""

    plan: "NeedlePlan"
    loaded: Loaded
    model: str | None
    against: str | None
    processes: int
    out: Path
    stop: bool


def needle(
    context: typer.Context,
    methods: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC...",
            help="Methods: NAME, NAME:option=value,option=value, or LABEL= one of these. With "
            "keep= among the options a method runs once, at its own budget.",
        ),
    ] = _METHODS,
    keep: Annotated[
        list[str],
        typer.Option(metavar="R|N...", help="Budgets, as shares or counts; 1 is all tokens, once."),
    ] = _KEEP,
    frames: Annotated[
        list[int], typer.Option(min=1, metavar="N...", help="Lengths of clips.")
    ] = _FRAMES,
    samples: Annotated[
        int, typer.Option(min=1, help="Clips of each length, dealt to the kinds in turn.")
    ] = 40,
    kinds: Annotated[
        list[str] | None, typer.Option(metavar="KIND...", help="Kinds of scenes. Default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Offset of the first clip.")] = 0,
    against: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="Also compare with this method, at the same budget."),
    ] = None,
    model: ModelOption = None,
    layer: LayerOption = None,
    positions: Annotated[str, typer.Option(help="Position policy, see `sttm models`.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 6,
    on_error: OnErrorOption = OnError.STOP,
    processes: Annotated[
        int, typer.Option(min=1, help="Spread the clips over processes of one thread each.")
    ] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of PyTorch, with one process.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")
    ] = Path("out/needle"),
    json: JsonOption = False,
) -> None:
    """Ask about generated scenes with many methods at many budgets, on the same clips.

    A run that was cut off goes on where it stood when the same command is given again: answers are
    kept in DIR/answers.jsonl. Also writes results.json, results.csv, results.md, accuracy.png.
    """
    from sttm.evaluation.needle import KINDS, NeedlePlan
    from sttm.evaluation.specs import find_reference, make_settings

    keeps = [read_keep(text, "--keep") for text in keep]
    settings = make_settings(methods, keeps)
    refuse_unused(context, settings, keeps)
    against = None if against is None else find_reference(against, settings)
    # Wrong options show before the model is loaded.
    plan = NeedlePlan(
        settings=tuple(settings),
        frames=tuple(frames),
        samples=samples,
        kinds=tuple(kinds or KINDS),
        seed=seed,
        layer=layer,
        positions=positions,
        max_new_tokens=max_new_tokens,
    )
    make_folder(out)
    loaded = load_model(model)
    plan = _as_loaded(plan, loaded)
    _set_threads(threads, processes)
    _warn(plan, loaded)
    task = _Task(plan, loaded, model, against, processes, out, on_error is OnError.STOP)
    with progress_bars(quiet=json) as tell:
        report, header = _run(task, tell)
    files = _write(task, report, header)
    if json:
        from dataclasses import asdict

        show_json({**header, **asdict(report), "files": [str(file) for file in files]})
    else:
        _show(task, report, files)


def _as_loaded(plan: "NeedlePlan", loaded: Loaded) -> "NeedlePlan":
    from dataclasses import replace

    layer = loaded.layer if plan.layer is None else plan.layer
    positions = loaded.positions if plan.positions == "auto" else plan.positions
    return replace(plan, layer=layer, positions=positions)


def _set_threads(threads: int | None, processes: int) -> None:
    if threads is not None and processes > 1:
        raise ConfigError(
            f"got --threads {threads} with --processes {processes}, expected one of them: each "
            "process has one thread."
        )
    set_threads(threads)


def _warn(plan: "NeedlePlan", loaded: Loaded) -> None:
    """Tell where clips are longer than what the model knows."""
    config = loaded.model.config.get_text_config()
    most, longest = getattr(config, MOST_POSITIONS, None), max(plan.frames)
    if loaded.layer is not None and most is not None and longest * 64 + 64 > most:
        note(f"{longest} frames are more than nano's {most} positions; it answers worse there.")


def _run(task: _Task, tell: Tell) -> tuple["Report", dict[str, Any]]:
    """Answer what is missing, then sum up."""
    from sttm.evaluation.journal import AnswerRecord, Journal
    from sttm.evaluation.machine import environment
    from sttm.evaluation.needle import TASKS
    from sttm.evaluation.report import summarize

    plan, loaded = task.plan, task.loaded
    machine = environment(loaded.model.device)
    identity = plan.identity(loaded.name, loaded.model)
    with Journal(task.out / "answers.jsonl", identity, machine, AnswerRecord) as journal:
        _tell_resumed(journal, machine)
        skipped = _answer(task, journal, tell)
        # On some settings only, a clip would not be the same for all.
        answers: list[AnswerRecord] = [
            answer
            for answer in journal.known.values()
            if (answer.frames, answer.kind, answer.seed) not in skipped
        ]
        begun = journal.info
    tell("intervals", 0, 1)
    report = summarize(plan, answers, TASKS, against=task.against)
    tell("intervals", 1, 1)
    header = {
        "benchmark": "needle",
        "command": command_line(),
        "settings": {
            **identity,
            "frames": list(plan.frames),
            "samples": plan.samples,
            "kinds": list(plan.kinds),
            "seed": plan.seed,
            "methods": {setting.label: setting.spec for setting in plan.settings},
            "processes": task.processes,
        },
        "against": task.against,
        "skipped": list(skipped.values()),
        "machine": machine,
        # Another digest of the source than the machine's: the answers come from two versions.
        "begun_with_code": begun.get("code"),
    }
    return report, header


def _answer(
    task: _Task, journal: "Journal[AnswerRecord]", tell: Tell
) -> dict[tuple[int, str, int], str]:
    """Answer what is missing.

    Returns:
        what went wrong, by the frames, kind and seed of the clip.

    Raises:
        SttmError: something did, and ``--on-error stop``; or with all clips.
    """
    from sttm.evaluation.needle import ClipFailure, run
    from sttm.evaluation.trouble import told

    skipped: dict[tuple[int, str, int], str] = {}

    def skip(failure: ClipFailure) -> None:
        clip, text = failure.clip, told(str(failure.clip), failure.error)
        note(f"skipped: {text}")
        skipped[clip.frames, clip.kind, clip.seed] = text

    def here() -> tuple[Any, Any]:
        return task.loaded.model, task.loaded.processor

    load = here if task.processes == 1 else partial(load_pair, task.model)
    clips = len(task.plan.clips())
    total = clips * len(task.plan.settings)
    tell("answer", 0, total)
    known = dict(journal.known)
    skipping = None if task.stop else skip
    found = run(task.plan, load, known, processes=task.processes, skip=skipping)
    for done, answers in enumerate(found, start=1):
        journal.add(answers)
        tell("answer", done, total)
    if len(skipped) == clips:
        raise SttmError(
            f"got {clips} clips of which none can be answered, expected at least one. The first: "
            f"{next(iter(skipped.values()))}"
        )
    return skipped


def _tell_resumed(journal: "Journal[AnswerRecord]", machine: dict[str, Any]) -> None:
    if not journal.known:
        return
    there = f"{len(journal.known)} answers already; only others are asked for"
    note_resumed(journal, machine["code"], there)


def _write(task: _Task, report: "Report", header: dict[str, Any]) -> list[Path]:
    from sttm.evaluation.results import write_results

    return write_results(task.out, report, header)


def _show(task: _Task, report: "Report", files: list[Path]) -> None:
    from sttm.evaluation.results import difference_table, table

    wide = results.width >= 70 + 8 * len(report.tasks)
    for frames in sorted(task.plan.frames):
        title = f"{frames} frames, {task.plan.samples} clips, model {task.loaded.name}"
        show_table(*table(report, frames, per_task=wide), title=title)
        if task.against is not None:
            show_table(*difference_table(report, frames, task.against))
    say(
        "Accuracy in %; in brackets 95 % intervals from resampling clips. The mean counts every "
        "task once. Differences are on the same clips."
        + ("" if wide else " A column per task is in results.md, or in a wider terminal.")
    )
    for file in [task.out / "answers.jsonl", *files]:
        say(f"wrote {file}")
