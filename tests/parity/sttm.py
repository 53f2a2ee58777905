"""``linking="published"`` against what the code published with STTM gives; see README.md."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.ops.merge import Linking
from tests.parity.comparison import Comparison

FOLDER = Path(__file__).parent
CASES: list[dict[str, Any]] = json.loads((FOLDER / "shared.json").read_text())


def load(case: dict[str, Any]) -> tuple[torch.Tensor, VideoGrid, dict[str, torch.Tensor]]:
    """Return an input, and what came out of it."""
    with np.load(FOLDER / "shared.npz") as data:
        keys = ("x", "feat", "patches", "tyxyx")
        arrays = {key: torch.from_numpy(data[f"{case['name']}_{key}"]) for key in keys}
    x = arrays.pop("x")
    return x.flatten(0, 2), VideoGrid(*x.shape[:3]), arrays


def method_for(case: dict[str, Any], linking: Linking) -> STTM:
    """Return STTM with a case's parameters."""
    temporal = case["temporal_threshold"]
    return STTM(
        spatial_threshold=case["spatial_threshold"],
        temporal_threshold=temporal if temporal > 0 else None,
        root_level=case["root_level"],
        weighted=case["weighted"],
        linking=linking,
    )


def comparisons() -> Iterator[Comparison]:
    """Compare all cases: boxes, how many patches each stands for, features."""
    for case in CASES:
        x, grid, expected = load(case)
        plan = method_for(case, "published").plan(VideoFeatures(x, grid))
        same = torch.equal(plan.info["boxes"], expected["tyxyx"].long())
        same &= torch.equal(plan.sizes, expected["patches"].long())
        difference = float((plan.apply(x) - expected["feat"]).abs().max()) if same else None
        yield Comparison("sttm", case["name"], same, difference)
