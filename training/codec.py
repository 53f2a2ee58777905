"""What a lossy video file does to a clip: a round trip through H.264 in memory."""

from __future__ import annotations

import dataclasses
import io

import av
import numpy as np

from sttm.nano.clips import Clip, write_clip
from sttm.nano.glyphs import Image


def decode(file: io.BytesIO | str) -> Image:
    """All frames of a video file: uint8 RGB ``(T, H, W, 3)``."""
    with av.open(file) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def through_codec(clip: Clip, crf: int, preset: str = "veryfast") -> Clip:
    """The same clip as a viewer of its mp4 file sees it."""
    file = io.BytesIO()
    write_clip(clip, file, crf=crf, preset=preset)
    file.seek(0)
    return dataclasses.replace(clip, frames=decode(file))
