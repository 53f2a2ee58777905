"""``linking="published"`` against numbers from the published code; see parity/README.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.ops import naive
from sttm.ops.merge import Linking

FOLDER = Path(__file__).parent.parent / "parity"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "shared.json").read_text())


def load(case: dict[str, Any]) -> tuple[torch.Tensor, VideoGrid, dict[str, torch.Tensor]]:
    with np.load(FOLDER / "shared.npz") as data:
        keys = ("x", "feat", "patches", "tyxyx")
        arrays = {key: torch.from_numpy(data[f"{case['name']}_{key}"]) for key in keys}
    x = arrays.pop("x")
    return x.flatten(0, 2), VideoGrid(*x.shape[:3]), arrays


def method_for(case: dict[str, Any], linking: Linking) -> STTM:
    temporal = case["temporal_threshold"]
    return STTM(
        spatial_threshold=case["spatial_threshold"],
        temporal_threshold=temporal if temporal > 0 else None,
        root_level=case["root_level"],
        weighted=case["weighted"],
        linking=linking,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_published_linking_reproduces_the_published_code(case: dict[str, Any]) -> None:
    x, grid, expected = load(case)
    plan = method_for(case, "published").plan(VideoFeatures(x, grid)).check()
    assert (plan.num_in, plan.num_out) == (case["tokens_in"], case["tokens_out"])
    assert torch.equal(plan.info["boxes"], expected["tyxyx"].long())
    assert torch.equal(plan.sizes, expected["patches"].long())
    torch.testing.assert_close(plan.apply(x), expected["feat"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_naive_twin_reproduces_the_published_code(case: dict[str, Any]) -> None:
    x, grid, expected = load(case)
    temporal = case["temporal_threshold"]
    settings = naive.Settings(
        spatial_threshold=case["spatial_threshold"],
        temporal_threshold=temporal if temporal > 0 else None,
        root_level=case["root_level"],
        weighted=case["weighted"],
        linking="published",
    )
    merged = naive.merge(x, grid.frames, grid.height, grid.width, settings)
    boxes = [list(merged.cells[i].box) for i in sorted(set(merged.root))]
    assert boxes == expected["tyxyx"].tolist()
    torch.testing.assert_close(merged.features.float(), expected["feat"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "linking", "tokens"),
    [
        ("case00", "published", 264),
        ("case00", "components", 226),
        ("case00", "directed", 242),
        ("case04", "published", 145),
        ("case04", "components", 116),
        ("case04", "directed", 133),
    ],
)
def test_token_counts_of_every_linking(name: str, linking: Linking, tokens: int) -> None:
    case = next(case for case in CASES if case["name"] == name)
    x, grid, _ = load(case)
    assert method_for(case, linking).plan(VideoFeatures(x, grid)).num_out == tokens
