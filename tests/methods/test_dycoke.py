"""DyCoke's plan is that of its first stage; what it does while answering is tested on models."""

from typing import Any

import pytest
import torch

from sttm.budget import token_budget
from sttm.errors import ConfigError
from sttm.methods import DyCoke, DyCokeStage1, VideoFeatures, get_method
from sttm.methods.base import DecodePruning

from .evidence_cases import BUDGETS, GRIDS, make_case


def test_the_plan_is_that_of_the_first_stage() -> None:
    for seed, grid in enumerate(GRIDS):
        x = make_case(grid, seed).x
        for keep in BUDGETS:
            plan, wanted = (
                DyCoke(keep).plan(VideoFeatures(x, grid)).check(),
                DyCokeStage1(keep).plan(VideoFeatures(x, grid)),
            )
            assert plan.num_out == token_budget(keep, grid.num_tokens)
            assert torch.equal(plan.group, wanted.group)
            assert torch.equal(plan.anchor, wanted.anchor)


def test_options() -> None:
    assert get_method("dycoke", keep=0.475) == DyCoke(0.475, 0.3, 3, 0.9)
    assert DyCoke(0.5, decode_keep=0.5, decode_layer=2).decode_pruning == DecodePruning(2, 0.5, 0.9)
    assert DyCoke.query_aware
    bad: list[dict[str, Any]] = [
        {"keep": 0.0},
        {"decode_keep": 0.0},
        {"decode_keep": 1.5},
        {"decode_layer": 0},
        {"decode_layer": 1.5},
        {"decode_threshold": 1.5},
    ]
    for options in bad:
        with pytest.raises(ConfigError):
            get_method("dycoke", **{"keep": 0.5, **options})
