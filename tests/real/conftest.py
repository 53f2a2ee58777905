"""Synthetic stand-ins for what ``make real-material`` fetches: noise, discs and a tiny network."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the package training/

from training.real import sources, tower


@pytest.fixture
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sources.Material:
    """The half to train on, of videos of noise and cut-outs of one colour for each kind."""
    for i, folders in enumerate(sources.KINDS.values()):
        folder = tmp_path / sources.STAMPS / folders[0]
        folder.mkdir(parents=True)
        for number in range(8):
            picture = Image.new("RGBA", (60, 40))
            colour = (30 * i, 255 - 30 * i, 100 + number, 255)
            ImageDraw.Draw(picture).ellipse((10, 5, 50, 35), fill=colour)
            picture.save(folder / f"{number}.png")

    def read(path: Path) -> sources.Pixels:
        rng = np.random.default_rng(zlib.crc32(path.name.encode()))
        small = rng.integers(0, 256, (20, 8, 10, 3), dtype=np.uint8)
        return small.repeat(36, 1).repeat(36, 2)

    def pretrained(folder: Path) -> torch.nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.nn.Sequential(torch.nn.Conv2d(3, tower.CHANNELS, 32, stride=32))

    monkeypatch.setattr(sources, "_read", read)
    monkeypatch.setattr(tower, "_pretrained", pretrained)
    return sources.Material(tmp_path)
