"""Write the pictures of a merged video to a folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sttm.cli.progress import Tell
from sttm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sttm.grid import VideoGrid
    from sttm.plan import MergePlan

KINDS = ("png", "mp4", "html")


@dataclass(frozen=True, eq=False)
class Merged:
    """A video, and how a model's tokens of it were merged.

    Args:
        frames: ``(n, H, W, 3)`` uint8 RGB, as the model was given them.
        timestamps: seconds, one per frame.
        plan: the merge.
        grid: the video's shape in tokens.
        title: what to write above it.
        note: model and setting.
    """

    frames: "npt.NDArray[np.uint8]"
    timestamps: tuple[float, ...]
    plan: "MergePlan"
    grid: "VideoGrid"
    title: str
    note: str

    def write_png(self, path: Path) -> None:
        """Write the sheet of frames."""
        from sttm.view import sheet

        picture = sheet(self.frames, self.plan, self.grid, self.timestamps, title=self.title)
        picture.save(path)

    def write_mp4(self, path: Path) -> None:
        """Write the frames with their cells; they play in real time."""
        from sttm.video import write_video
        from sttm.view import overlay

        drawn = overlay(self.frames, self.plan, self.grid, self.timestamps)
        seconds = self.timestamps[-1] - self.timestamps[0]
        write_video(drawn, path, (len(drawn) - 1) / seconds if seconds > 0 else 1.0)

    def write_html(self, path: Path) -> None:
        """Write the page."""
        from sttm.view import page

        scene = (self.frames, self.plan, self.grid, self.timestamps)
        path.write_text(page(*scene, title=self.title, note=self.note), encoding="utf-8")


def write_pictures(merged: Merged, stem: Path, kinds: Sequence[str], tell: Tell) -> list[Path]:
    """Write pictures that differ in their suffix only.

    Args:
        merged: what to draw.
        stem: path without suffix; its folder is made where there is none.
        kinds: which of ``KINDS``.
        tell: told about every file, as stage "draw".
    Returns: the files.
    Raises: ConfigError: the folder or a file in it cannot be written.
    """
    writers: dict[str, Callable[[Path], None]] = {
        "png": merged.write_png,
        "mp4": merged.write_mp4,
        "html": merged.write_html,
    }
    make_folder(stem.parent)
    files = []
    for done, kind in enumerate(kinds):
        tell("draw", done, len(kinds))
        files.append(stem.with_name(f"{stem.name}.{kind}"))
        try:
            writers[kind](files[-1])
        except OSError as error:
            raise ConfigError(
                f"{files[-1]}: cannot be written ({error.strerror}). Choose another --out."
            ) from error
    tell("draw", len(kinds), len(kinds))
    return files


def make_folder(folder: Path) -> None:
    """Make a folder unless it is there.

    Raises: ConfigError: it cannot be made, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out: got {folder}, which cannot be made ({error.strerror}), expected a folder to "
            "write to. Choose another one."
        ) from error
