"""Write the pictures of a merged video to a folder."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sttm.cli.progress import Tell
from sttm.files import check_target, make_folder, write_bytes, write_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sttm.grid import VideoGrid
    from sttm.plan import MergePlan

KINDS = ("png", "mp4", "html")


@dataclass(frozen=True, eq=False)
class MergedVideo:
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
        content = io.BytesIO()
        picture.save(content, "PNG")
        write_bytes(path, content.getvalue())

    def write_mp4(self, path: Path) -> None:
        """Write the frames with their cells; they play in real time."""
        from sttm.video import write_video
        from sttm.view import overlay

        check_target(path)
        drawn = overlay(self.frames, self.plan, self.grid, self.timestamps)
        seconds = self.timestamps[-1] - self.timestamps[0]
        write_video(drawn, path, (len(drawn) - 1) / seconds if seconds > 0 else 1.0)

    def write_html(self, path: Path) -> None:
        """Write the page."""
        from sttm.view import page

        scene = (self.frames, self.plan, self.grid, self.timestamps)
        write_text(path, page(*scene, title=self.title, note=self.note))


def write_pictures(merged: MergedVideo, stem: Path, kinds: Sequence[str], tell: Tell) -> list[Path]:
    """Write pictures that differ in their suffix only.

    Args:
        merged: what to draw.
        stem: path without suffix; its folder is made where there is none.
        kinds: which of ``KINDS``.
        tell: told about every file, as stage "draw".

    Returns:
        the files.

    Raises:
        ConfigError: the folder cannot be written.
        WriteError, VideoError: a file in it cannot.
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
        writers[kind](files[-1])
    tell("draw", len(kinds), len(kinds))
    return files
