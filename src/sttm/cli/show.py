"""``sttm show``: draw which tokens of a video become one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sttm.cli.loading import Loaded, load_model
from sttm.cli.options import (
    FpsOption,
    JsonOption,
    KeepOption,
    LayerOption,
    MaxFramesOption,
    ModelOption,
    OutOption,
    Reduction,
    ThresholdsOption,
    VideoArgument,
    describe_method,
    parse_reduction,
)
from sttm.cli.output import percent, say, show_json, show_table
from sttm.cli.progress import Tell, progress_bars
from sttm.cli.watching import decode, watch
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.plan import MergePlan


@dataclass(frozen=True)
class Merged:
    """A video, and how a model's tokens of it were merged.

    Args:
        frames: ``(n, H, W, 3)`` uint8 RGB.
        timestamps: seconds, one per frame.
        plan: the merge.
        grid: the video's shape in tokens.
        title: what to write above it.
        note: model and setting.
    """

    frames: "Frames"
    timestamps: tuple[float, ...]
    plan: MergePlan
    grid: VideoGrid
    title: str
    note: str

    @property
    def playing_rate(self) -> float:
        """Frames per second at which the sampled frames play in real time."""
        seconds = self.timestamps[-1] - self.timestamps[0]
        return (len(self.timestamps) - 1) / seconds if seconds > 0 else 1.0


@dataclass(frozen=True)
class ShowResult:
    """What ``sttm show --json`` prints.

    Args:
        new_tokens: output tokens whose anchor is in each time step of the model.
        retained: tokens kept so far / tokens so far, after each time step.
    """

    video: str
    model: str
    method: str
    layer: int
    frames: int
    grid: tuple[int, int, int]
    tokens_in: int
    tokens_out: int
    retention: float
    new_tokens: list[int]
    retained: list[float]
    files: list[str]


def show(
    video: VideoArgument,
    model: ModelOption = None,
    keep: KeepOption = None,
    thresholds: ThresholdsOption = None,
    layer: LayerOption = None,
    fps: FpsOption = 1.0,
    max_frames: MaxFramesOption = 128,
    out: OutOption = Path("out"),
    png: Annotated[bool, typer.Option("--png", help="Write a sheet of all frames.")] = False,
    mp4: Annotated[bool, typer.Option("--mp4", help="Write a video with the cells.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Write a page to look around in.")] = False,
    json: JsonOption = False,
) -> None:
    """Draw the merged cells on the frames: same colour = same token through time.

    Writes a PNG sheet, an MP4 and an HTML page; with --png, --mp4 or --html only those.
    """
    reduction = _drawable(parse_reduction(keep, thresholds, layer))
    loaded = load_model(model)
    wanted = [kind for kind, on in (("png", png), ("mp4", mp4), ("html", html)) if on]
    with progress_bars(quiet=json) as tell:
        decoded = decode(video, fps, max_frames, tell)
        watched = watch(loaded.chat(reduction), decoded, reduction, tell)
        report = watched.reports[0]
        merged = Merged(
            frames=decoded.video.frames,
            timestamps=decoded.video.timestamps,
            plan=report.plan,
            grid=report.grid,
            title=video.name,
            note=_describe(loaded, reduction, report.layer),
        )
        files = write_pictures(merged, out, video.stem, wanted, tell)
    result = _result(video, loaded, reduction, merged, report.layer, files)
    if json:
        show_json(result)
    else:
        _show(result, merged.timestamps)
