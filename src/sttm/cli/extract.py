"""``sttm extract``: encode videos once, and store what the vision tower makes of them."""

from pathlib import Path
from typing import Annotated

import typer

from sttm.cli.command import refuse_idle
from sttm.cli.extracting import Asked, extract_asked, show_checked, verify_folder
from sttm.cli.loading import refuse_for_nano
from sttm.cli.options import (
    DeviceMapOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    NewlineOption,
    OnError,
    OnErrorOption,
    OutOption,
    RuleOption,
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


def extract(
    context: typer.Context,
    out: OutOption,
    videos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[VIDEO...]", help="Video files, or folders of them."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="T", help="Extract the videos of a task, see `sttm eval tasks`."),
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(metavar="D", help="Folder with the task's data.")
    ] = None,
    model: ModelOption = None,
    device_map: DeviceMapOption = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second. Default: the task's, or 1.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(help="Most frames to sample. Default: the task's, or 128.")
    ] = None,
    rule: RuleOption = None,
    dtype: DtypeOption = None,
    newline: NewlineOption = None,
    with_attention: Annotated[
        bool,
        typer.Option(
            "--with-attention",
            help="Store the vision tower's attention too, which some methods read (LLaVA, Qwen).",
        ),
    ] = False,
    on_error: OnErrorOption = OnError.SKIP,
    processes: ProcessesOption = 1,
    ray: RayOption = None,
    ray_workers: RayWorkersOption = None,
    ray_gpus: RayGpusOption = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check what is in the folder; extract nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Store the vision features of videos, for `sttm eval run --features DIR`.

    A run that was cut off goes on where it stood: run the same command again.
    """
    if verify:
        others = set(context.params) - {"out", "verify", "json"}
        refuse_idle(context, others, "--verify", "it checks what is in the folder, as it is")
        with progress_bars(quiet=json) as tell:
            checked = verify_folder(out, tell)
        show_checked(out, checked, json=json)
        return
    refuse_for_nano(context, model)
    refuse_fps(context, rule)
    asked = Asked(
        out,
        videos or [],
        task=task,
        data_root=data_root,
        model=model,
        device_map=device_map,
        fps=fps,
        max_frames=max_frames,
        rule=None if rule is None else rule.value,
        dtype=None if dtype is None else dtype.value,
        newline=newline,
        attention=with_attention,
        stop=on_error is OnError.STOP,
        spread=Spread(processes, ray, ray_workers, ray_gpus),
    )
    with progress_bars(quiet=json) as tell:
        done = extract_asked(asked, tell)
    if json:
        show_json(done.summary())
    else:
        done.show()
