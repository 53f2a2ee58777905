"""Layers that see a window only: it counts the tokens that are left, as in the mask by hand."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from sttm import attach

from . import configs
from .families import BY_NAME, Inputs
from .layouts import Row, Text, Video
from .methods import KeepEvery, PairMerge
from .oracle import by_hand
from .running import greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(4), Text(5, seed=1))
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = 9
NAMES = ("llava_onevision", "internvl", "qwen2_vl", "qwen2_5_vl")


@cache
def windowed(name: str, window: int = WINDOW) -> Any:
    """A model of a family whose layers from 2 on see ``window`` tokens."""

    def config() -> PretrainedConfig:
        made = BY_NAME[name].config()
        text = made.get_text_config()
        text.use_sliding_window, text.sliding_window = True, window
        text.max_window_layers = 2
        text.layer_types = [FULL, FULL, *[SLIDING] * (configs.LAYERS - 2)]
        return made

    return replace(BY_NAME[name], config=config).make_model()


@pytest.mark.parametrize("positions", ["survived", "reassigned", "merged"])
@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_as_by_hand(name: str, layer: int, positions: str) -> None:
    """Prefill and every decoded token: with layer=3 a sliding layer still sees the whole video."""
    model, inputs = windowed(name), BY_NAME[name].make_inputs(ROW)
    with attach(model, PairMerge(), layer=layer, positions=positions):
        answer = greedy(model, inputs, 5)
    whole = inputs.followed_by(answer.tokens[:, :-1])
    hand = by_hand(model, whole, PairMerge(), layer, positions)
    torch.testing.assert_close(answer.logits[0], hand.tail(5), atol=tolerance(name), rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_padded_batch(name: str) -> None:
    family, model = BY_NAME[name], windowed(name)
    rows: tuple[Row, ...] = (ROW, (Text(9, seed=2), Video(4, seed=3), Text(2, seed=4)))
    with attach(model, KeepEvery(3), layer=1, positions="reassigned"):
        batch = model(**family.make_inputs(*rows).tensors).logits
    for row, parts in enumerate(rows):
        single: Inputs = family.make_inputs(parts)
        hand = by_hand(model, single, KeepEvery(3), 1, "reassigned")
        torch.testing.assert_close(batch[row, -1], hand.logits[-1], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_window_matters(name: str) -> None:
    """One token more or less in the window is no rounding error."""
    inputs = BY_NAME[name].make_inputs(ROW)
    runs = [
        by_hand(windowed(name, window), inputs, PairMerge(), 1, "survived").tail(1)
        for window in (WINDOW - 1, WINDOW, WINDOW + 1, 500)
    ]
    assert min(float((runs[1] - runs[i]).abs().max()) for i in (0, 2, 3)) > 0.01
