"""``sttm eval run``: answer the questions of a task, and keep every answer."""

from pathlib import Path
from typing import Annotated

import typer

from sttm.cli.command import refuse_idle
from sttm.cli.eval_preparing import Asked, prepare
from sttm.cli.eval_running import check_answered, execute, finish, show
from sttm.cli.loading import refuse_for_nano
from sttm.cli.options import (
    DeviceMapOption,
    DtypeOption,
    JsonOption,
    KeepOption,
    LayerOption,
    MaxTokensOption,
    MethodOption,
    ModelOption,
    NewlineOption,
    OnError,
    OnErrorOption,
    RuleOption,
    ThresholdsOption,
    Wanted,
    refuse_fps,
)
from sttm.cli.output import show_json
from sttm.cli.progress import progress_bars
from sttm.cli.spreading import (
    ProcessesOption,
    RayGpusOption,
    RayOption,
    RayWorkersOption,
    Spread,
)


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
    model: ModelOption = None,
    device_map: DeviceMapOption = None,
    dtype: DtypeOption = None,
    newline: NewlineOption = None,
    method: MethodOption = None,
    keep: KeepOption = None,
    thresholds: ThresholdsOption = None,
    max_tokens: MaxTokensOption = None,
    full: Annotated[bool, typer.Option("--full", help="Keep every token.")] = False,
    layer: LayerOption = None,
    positions: Annotated[
        str | None, typer.Option(help="Position policy, see `sttm models`.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="In place of the task's.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="In place of the task's.")] = None,
    rule: RuleOption = None,
    prompt: Annotated[
        str, typer.Option(help="published (the paper's) or official (the benchmark's).")
    ] = "published",
    parser: Annotated[
        str | None,
        typer.Option(
            help="clean, published (quirks included), official or official-alternative. Default: "
            "the task's, which is clean; of a preset published."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first questions; more may be asked later.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Features of `sttm extract` in place of videos."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Set anew for every video.")] = 42,
    reproduce: Annotated[
        bool, typer.Option("--reproduce", help="Only algorithms that repeat every bit, or fail.")
    ] = False,
    on_error: OnErrorOption = OnError.STOP,
    warm_up: Annotated[
        bool, typer.Option(help="Time no question of a process's first forward.")
    ] = True,
    processes: ProcessesOption = 1,
    ray: RayOption = None,
    ray_workers: RayWorkersOption = None,
    ray_gpus: RayGpusOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Ask all questions of a task with one model, one method and one budget.

    Every answer is a line of DIR/answers.jsonl as soon as it is there. A run that was cut off goes
    on when the same command is given again: nothing is lost or asked twice, and what went wrong is
    tried again. `sttm eval report DIR...` sums up.
    """
    if full:
        why = "all tokens are kept, in front of every layer and where they are"
        refuse_idle(context, ["layer", "positions"], "--full", why)
    if preset is None:
        refuse_for_nano(context, model)
    refuse_fps(context, rule)
    asked = Asked(
        task=task,
        preset=preset,
        data_root=data_root,
        model=model,
        device_map=device_map,
        dtype=None if dtype is None else dtype.value,
        newline=newline,
        wanted=Wanted(keep, thresholds, max_tokens, method, full),
        layer=layer,
        positions=positions,
        fps=fps,
        max_frames=max_frames,
        rule=None if rule is None else rule.value,
        prompt=prompt,
        parser=parser,
        max_new_tokens=max_new_tokens,
        limit=limit,
        features=features,
        seed=seed,
        reproduce=reproduce,
        stop=on_error is OnError.STOP,
        warm_up=warm_up,
        spread=Spread(processes, ray, ray_workers, ray_gpus),
        out=out,
    )
    work = prepare(asked)
    with progress_bars(quiet=json) as tell:
        execute(work, tell)
    summary = finish(work)
    if json:
        show_json(summary)
    else:
        show(work, summary)
    check_answered(summary)
