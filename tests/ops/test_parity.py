"""``linking="published"`` against numbers from the published code; see parity/README.md."""

from typing import Any

import pytest
import torch

from sttm.methods import VideoFeatures
from sttm.ops import naive
from sttm.ops.merge import Linking
from tests.parity.sttm import CASES, load, method_for


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
