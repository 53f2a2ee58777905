"""Thresholds on disk: what a calibration found, and for which model."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sttm.errors import ConfigError
from sttm.evaluation.files import write_json
from sttm.methods import STTM

FORMAT = 1


@dataclass(frozen=True)
class VideoRetention:
    """What the thresholds leave of one video.

    Args:
        video: its file.
        frames: sampled frames.
        tokens_in: video tokens.
        tokens_out: those that remain.
        retention: tokens out / tokens in.
    """

    video: str
    frames: int
    tokens_in: int
    tokens_out: int
    retention: float


@dataclass(frozen=True)
class Thresholds:
    """A pair of thresholds for one model at one layer.

    Args:
        model: its name.
        layer: the layer in front of which tokens merge.
        spatial_threshold, temporal_threshold: see `sttm.STTM`.
        diagonal: spatial less temporal.
        target: the mean retention that was wanted.
        mean_retention: the one that was reached.
        videos: the videos one by one.
        skipped: messages about those that could not be read.
    """

    model: str
    layer: int
    spatial_threshold: float
    temporal_threshold: float
    diagonal: float
    target: float
    mean_retention: float
    videos: Sequence[VideoRetention]
    skipped: Sequence[str] = ()

    def method(self) -> STTM:
        """Build the method."""
        return STTM(
            spatial_threshold=self.spatial_threshold, temporal_threshold=self.temporal_threshold
        )

    def write(self, path: Path, info: dict[str, Any]) -> None:
        """Write a JSON file.

        Args:
            path: the file.
            info: what else to note, e.g. the machine.
        Raises: WriteError: it cannot be written.
        """
        write_json(path, {"format": FORMAT, **asdict(self), **info})

    @classmethod
    def read(cls, path: Path) -> "Thresholds":
        """Read what `write` wrote.

        Raises: ConfigError: no such file, or another content.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}), expected thresholds that "
                "`sttm calibrate` wrote."
            ) from error
        except ValueError:
            found = None
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.get("format") != FORMAT or not names <= set(found):
            raise ConfigError(
                f"{path}: got another content, expected thresholds that `sttm calibrate` wrote, "
                f"format {FORMAT}. Calibrate again."
            )
        return cls(**{name: found[name] for name in names})
