"""Which files are videos."""

from collections.abc import Iterable
from pathlib import Path

from sttm.errors import ConfigError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".gif"}
)


def find_videos(paths: Iterable[Path]) -> list[Path]:
    """Replace folders by the video files in them, by name; every file once.

    Raises:
        ConfigError: a folder without a video file.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        if not inside:
            raise ConfigError(
                f"{path}: got a folder without video files, expected some that end in one of "
                f"{', '.join(sorted(VIDEO_SUFFIXES))}. Name the files themselves."
            )
        files += inside
    return list(dict.fromkeys(files))
