"""``sttm show``: draw which tokens of a video become one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sttm.cli.decoding import decode
from sttm.cli.loading import load_model
from sttm.cli.options import (
    FpsOption,
    JsonOption,
    KeepOption,
    LayerOption,
    MaxFramesOption,
    MaxTokensOption,
    MethodOption,
    ModelOption,
    OutOption,
    ThresholdsOption,
    VideoArgument,
)
from sttm.cli.output import percent, say, show_json, show_table
from sttm.cli.pictures import KINDS, MergedVideo, write_pictures
from sttm.cli.progress import progress_bars
from sttm.cli.reduction import Wanted, describe_method, parse_reduction
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm import VideoReport


@dataclass(frozen=True)
class Step:
    """One time step of the model.

    Args:
        seconds: when its first frame shows.
        new_tokens: output tokens whose anchor is in it.
        retention_so_far: tokens kept up to here / tokens up to here.
    """

    seconds: float
    new_tokens: int
    retention_so_far: float


@dataclass(frozen=True)
class ShowResult:
    """What ``sttm show --json`` prints."""

    video: str
    model: str
    method: str
    layer: int
    frames: int
    grid: tuple[int, int, int]
    tokens_in: int
    tokens_out: int
    retention: float
    steps: list[Step]
    files: list[str]


def show(
    video: VideoArgument,
    model: ModelOption = None,
    keep: KeepOption = None,
    thresholds: ThresholdsOption = None,
    max_tokens: MaxTokensOption = None,
    method: MethodOption = None,
    layer: LayerOption = None,
    fps: FpsOption = 1.0,
    max_frames: MaxFramesOption = 128,
    out: OutOption = Path("out"),
    png: Annotated[bool, typer.Option("--png", help="Write a sheet of all frames.")] = False,
    mp4: Annotated[bool, typer.Option("--mp4", help="Write a video with the cells.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Write a page to look around in.")] = False,
    json: JsonOption = False,
) -> None:
    """Draw the merged cells on the frames: pale = part of a token of an earlier frame.

    Writes NAME-merged.png (all frames on a sheet), .mp4 and .html (a page to look around in); with
    --png, --mp4 or --html only those.
    """
    from sttm.evaluation.trouble import naming
    from sttm.methods import Identity

    wanted = Wanted(keep, thresholds, max_tokens, method)
    reduction = parse_reduction(wanted, model=model, layer=layer)
    reduction = replace(reduction, method=reduction.method or Identity())
    chosen = [kind for kind, on in zip(KINDS, (png, mp4, html)) if on]
    with progress_bars(quiet=json) as tell:
        decoded = decode(video, fps, max_frames, tell)
    make_folder(out)
    loaded = load_model(model)
    with progress_bars(quiet=json) as tell:
        chat = loaded.chat(reduction)
        with naming(str(video)):
            report = chat.watch(decoded.video, progress=tell).reports[0]
        described = describe_method(reduction.method)
        merged = MergedVideo(
            frames=decoded.video.frames,
            timestamps=decoded.video.timestamps,
            plan=report.plan,
            grid=report.grid,
            title=video.name,
            note=f"{described}, before layer {report.layer}, model {loaded.name}",
        )
        files = write_pictures(merged, out / f"{video.stem}-merged", chosen or KINDS, tell)
    result = ShowResult(
        video=str(video),
        model=loaded.name,
        method=described,
        layer=report.layer,
        frames=len(merged.frames),
        grid=(report.grid.frames, report.grid.height, report.grid.width),
        tokens_in=report.tokens_in,
        tokens_out=report.tokens_out,
        retention=report.retention,
        steps=_steps(report, merged),
        files=[str(file) for file in files],
    )
    if json:
        show_json(result)
    else:
        _show(result)


def _steps(report: "VideoReport", merged: MergedVideo) -> list[Step]:
    from sttm.view import find_cells
    from sttm.view.cells import check_frames

    first = check_frames(merged.frames, report.grid)
    steps, kept, seen = [], 0, 0
    for new, frame in zip(find_cells(report.plan, report.grid).new_tokens.tolist(), first):
        kept, seen = kept + new, seen + report.grid.tokens_per_frame
        steps.append(Step(merged.timestamps[frame], new, kept / seen))
    return steps


def _show(result: ShowResult) -> None:
    rows = [
        (f"{step.seconds:.1f} s", step.new_tokens, percent(step.retention_so_far))
        for step in result.steps
    ]
    show_table(("time", "new tokens", "kept so far"), rows)
    say(
        f"{result.frames} frames, {result.tokens_in} -> {result.tokens_out} tokens "
        f"({percent(result.retention)}), {result.method}, before layer {result.layer}, "
        f"model {result.model}"
    )
    for file in result.files:
        say(f"wrote {file}")
