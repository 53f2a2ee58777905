"""``sttm calibrate``: thresholds that leave a wanted share of a user's own videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.budget import read_keep
from sttm.cli.decoding import decode
from sttm.cli.loading import Loaded, load_model
from sttm.cli.options import (
    FpsOption,
    JsonOption,
    LayerOption,
    MaxFramesOption,
    ModelOption,
    OnError,
    OnErrorOption,
)
from sttm.cli.output import note, percent, say, show_json, show_table
from sttm.cli.progress import Tell, progress_bars
from sttm.errors import ConfigError, SttmError, VideoError, WriteError
from sttm.files import check_folder

if TYPE_CHECKING:
    from sttm.evaluation.calibrate import FeatureStore, Recording
    from sttm.evaluation.thresholds import Thresholds

_FILE = "thresholds.json"
_NEAR = 0.01  # of the share of tokens; a few videos cannot meet it to the last token


def calibrate(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Video files, or folders of them.")
    ],
    keep: Annotated[
        str, typer.Option("--keep", "-k", metavar="R", help="Wanted mean share of the tokens.")
    ] = "0.3",
    model: ModelOption = None,
    layer: LayerOption = None,
    fps: FpsOption = 1.0,
    max_frames: MaxFramesOption = 128,
    diagonal: Annotated[
        float, typer.Option(help="Spatial less temporal threshold; published: 0.2.")
    ] = 0.2,
    on_error: OnErrorOption = OnError.SKIP,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.json", help="Where to write them.")
    ] = Path(_FILE),
    json: JsonOption = False,
) -> None:
    """Find the thresholds that keep a wanted share of the tokens of your videos, on average.

    Each video is encoded once. Use what it writes with --thresholds FILE.json.
    """
    from sttm.evaluation.calibrate import check_aim
    from sttm.video import Sampling
    from sttm.video.files import find_videos

    # Wrong options show before any video is encoded.
    target = _target(keep)
    check_aim(target, diagonal)
    _check_out(out)
    files = find_videos(videos)
    Sampling(fps=fps, max_frames=max_frames)
    settings = _Settings(target, layer, fps, max_frames, diagonal, stop=on_error is OnError.STOP)
    loaded = load_model(model)
    with progress_bars(quiet=json) as tell:
        found = _calibrate(loaded, files, settings, tell)
    if abs(found.mean_retention - target) > _NEAR:
        note(
            f"no thresholds on this diagonal keep {percent(target)}: these come nearest. Another "
            "--diagonal may come nearer; --keep in ask and show is exact for every video."
        )
    found.write(out, {"fps": fps, "max_frames": max_frames})
    if json:
        show_json(found)
    else:
        _show(found, out)


@dataclass(frozen=True)
class _Settings:
    """What to do with every video."""

    target: float
    layer: int | None
    fps: float
    max_frames: int
    diagonal: float
    stop: bool


def _target(text: str) -> float:
    share = read_keep(text, "--keep")
    if isinstance(share, int) or not 0 < share <= 1:
        raise ConfigError(f"--keep: got {text!r}, expected a share such as 0.3 or 30%.")
    return share


def _check_out(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"--out: got {path}, a folder, expected a file, e.g. {path / _FILE}.")
    if path.exists() and not path.is_file():
        raise ConfigError(f"--out: got {path}, a device or pipe, expected a file to write.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"--out: got {path}, whose folder does not exist. Create it first.")
    check_folder(folder, "--out")


def _calibrate(
    loaded: Loaded, files: Sequence[Path], settings: _Settings, tell: Tell
) -> "Thresholds":
    from sttm.evaluation.calibrate import FeatureStore, Recording, calibrate, per_video
    from sttm.evaluation.thresholds import Thresholds

    layer = loaded.layer if settings.layer is None else settings.layer
    recording = Recording(loaded.model, loaded.processor, layer=layer)
    with FeatureStore.temporary() as store:
        names, skipped = _record(recording, store, files, settings, tell)
        method, mean = calibrate(
            store,
            settings.target,
            diagonal=settings.diagonal,
            progress=lambda done, total: tell("bisect", done, total),
        )
        rows = per_video(store, method, names)
    spatial, temporal = method.spatial_threshold, method.temporal_threshold
    assert isinstance(spatial, float)
    assert isinstance(temporal, float)
    return Thresholds(
        model=loaded.name,
        layer=recording.layer,
        spatial_threshold=spatial,
        temporal_threshold=temporal,
        diagonal=settings.diagonal,
        target=settings.target,
        mean_retention=round(mean, 6),
        videos=rows,
        skipped=skipped,
    )


def _record(
    recording: "Recording",
    store: "FeatureStore",
    files: Sequence[Path],
    settings: _Settings,
    tell: Tell,
) -> tuple[list[tuple[str, int]], list[str]]:
    """Store the features of every video that can be read; return those, and what was wrong."""
    from sttm.evaluation.trouble import naming, told

    names: list[tuple[str, int]] = []
    skipped: list[str] = []
    for done, path in enumerate(files):
        tell("encode videos", done, len(files))
        try:
            with naming(str(path)):
                decoded = decode(path, settings.fps, settings.max_frames, _nothing)
                store.add(recording.features(decoded.video))
        except WriteError:  # the next video would fare no better
            raise
        except SttmError as error:
            if settings.stop or len(files) == 1:
                raise
            text = told(str(path), error)
            note(f"skipped: {text}")
            skipped.append(text)
            continue
        names.append((str(path), len(decoded.video)))
    tell("encode videos", len(files), len(files))
    if not names:
        raise VideoError(
            f"got {len(files)} videos of which none can be read, expected at least one. The notes "
            "above say what is wrong with each."
        )
    return names, skipped


def _nothing(*_: Any) -> None:
    """Show no bar for the frames of one video among many."""


def _show(found: "Thresholds", out: Path) -> None:
    rows = [
        (Path(v.video).name, v.frames, v.tokens_in, v.tokens_out, percent(v.retention))
        for v in found.videos
    ]
    show_table(("video", "frames", "tokens", "kept", "retention"), rows)
    shares = sorted(v.retention for v in found.videos)
    spread = f"{percent(shares[0])} to {percent(shares[-1])}"
    if len(shares) > 1:
        low, middle, high = quantiles(shares, n=4, method="inclusive")
        spread += f"; quartiles {percent(low)}, {percent(middle)}, {percent(high)}"
    say(
        f"thresholds {found.spatial_threshold:g}/{found.temporal_threshold:g} keep "
        f"{percent(found.mean_retention)} on average over {len(shares)} videos "
        f"(wanted {percent(found.target)}), {spread}"
    )
    say(f"model {found.model}, before layer {found.layer}")
    say(f"wrote {out}; use it with --thresholds {out}")
