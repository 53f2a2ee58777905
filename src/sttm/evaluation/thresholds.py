"""Thresholds on disk: what a calibration found, and for which model."""

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sttm.errors import ConfigError
from sttm.files import write_json
from sttm.methods import STTM

FORMAT: Literal[1] = 1
_MOST_BYTES = 2**28  # a million videos; what is longer is cut, and then no JSON

Cosine = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


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
    frames: Count
    tokens_in: Count
    tokens_out: Count
    retention: Share


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
    layer: Count
    spatial_threshold: Cosine
    temporal_threshold: Cosine
    diagonal: float
    target: Share
    mean_retention: Share
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

        Raises:
            WriteError: it cannot be written.
        """
        write_json(path, {"format": FORMAT, **asdict(self), **info})

    @classmethod
    def read(cls, path: Path) -> "Thresholds":
        """Read what `write` wrote.

        Raises:
            ConfigError: no such file, or another content.
        """
        try:
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, "no regular file")  # a pipe would be waited for
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}), expected thresholds that "
                "`sttm calibrate` wrote."
            ) from error
        try:
            _Header.model_validate_json(content)
            return TypeAdapter(cls).validate_json(content, strict=True)
        except ValidationError as error:
            # Where and why, never what: the file may be any file, and its content secret.
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the content"
            raise ConfigError(
                f"{path}: got something else as {where} ({first['msg']}), expected thresholds that "
                f"`sttm calibrate` wrote, format {FORMAT}. Calibrate again."
            ) from None


class _Header(BaseModel):
    """What tells the file from others."""

    model_config = ConfigDict(strict=True)

    format: Literal[1]
