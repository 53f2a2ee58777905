"""The measurements of a comparison in one file, written anew after each video."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sttm.errors import ConfigError, VideoError
from sttm.evaluation.compare.measure import VideoComparison
from sttm.evaluation.compare.summary import recommend, summarize
from sttm.files import check_target, in_utf8, write_json

FORMAT = 1
_VIDEOS = TypeAdapter(dict[str, VideoComparison])


class ComparisonFile:
    """Videos that were compared, and under which settings; a run that was cut off goes on.

    Args:
        path: the file; its folder exists. None keeps everything in memory.
        settings: all that the numbers depend on, JSON values.
        info: what else to note, JSON values; that of the first run is kept.

    Raises:
        ConfigError: the file is of other settings, or is no such file.
        WriteError: something that is no file is there.

    Attributes:
        videos: what was measured, by name.
    """

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], info: Mapping[str, Any]
    ) -> None:
        self.videos: dict[str, VideoComparison] = {}
        self._path = path
        self._header = {"format": FORMAT, "settings": dict(settings), "info": dict(info)}
        if path is not None:
            check_target(path)
            if path.exists():
                self._resume(path)

    def add(self, name: str, video: VideoComparison) -> None:
        """Add a video, and write the file.

        Args:
            name: of the video.
            video: what was measured.

        Raises:
            WriteError: it cannot be written; the file then holds what it held before.
        """
        self.videos[name] = video
        if self._path is not None:
            plain = _VIDEOS.dump_python(self.videos, mode="json")
            write_json(self._path, {**self._header, "videos": plain, **self.conclusions()})

    def conclusions(self) -> dict[str, Any]:
        """Return the rows and the recommendation of all videos as JSON values."""
        rows = summarize(list(self.videos.values()))
        plain = [_plain(asdict(row)) for row in rows]
        return {"rows": plain, "recommendation": asdict(recommend(rows))}

    def _resume(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            header = {name: found[name] for name in self._header}
            self.videos = _VIDEOS.validate_python(found["videos"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise ConfigError(
                f"--out: got {path}, which is no comparison that can be read, expected one that "
                "`sttm compare` wrote, or none. Choose another folder."
            ) from error
        own = json.loads(json.dumps(self._header))
        if {**header, "info": 0} != {**own, "info": 0}:
            settings, wanted = header["settings"], own["settings"]
            keys = sorted({*settings, *wanted})
            other = [key for key in keys if settings.get(key) != wanted.get(key)] or ["format"]
            raise ConfigError(
                f"--out: got {path}, a comparison with another {', '.join(other)}, expected one of "
                "the same settings, which goes on. Choose another folder."
            )
        self._header = header


def video_name(path: Path) -> str:
    """Name a video by its file's name and content.

    Raises:
        VideoError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(
            f"{path}: cannot be read ({error.strerror}), expected a video file. Check its name."
        ) from error
    return f"{in_utf8(path.name)} {digest[:12]}"


def _plain(value: Any) -> Any:
    """Write NaN, of which JSON knows nothing, as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
