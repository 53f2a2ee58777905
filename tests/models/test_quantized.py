"""A decoder with int8 weights is reduced like one with the same weights in float32."""

import copy

import pytest
import torch

from sttm import attach

from .families import FAMILIES, Family, shared_model
from .layouts import Row, Text, Video
from .methods import PairMerge
from .running import assert_same, greedy, tolerance

quantization = pytest.importorskip("torchao.quantization")
pytestmark = pytest.mark.usefixtures("no_gradients")
ROW: Row = (Text(4), Video(3), Text(5, seed=1))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("layer", [0, 1])
def test_int8_weights_are_reduced_like_what_they_stand_for(family: Family, layer: int) -> None:
    small = copy.deepcopy(shared_model(family.name))
    quantization.quantize_(small.get_decoder(), quantization.Int8WeightOnlyConfig())
    wide = copy.deepcopy(small)
    quantized = 0
    for part in wide.get_decoder().modules():
        if isinstance(part, torch.nn.Linear) and type(part.weight) is not torch.nn.Parameter:
            part.weight = torch.nn.Parameter(part.weight.dequantize(), requires_grad=False)
            quantized += 1
    assert quantized
    inputs = family.make_inputs(ROW)
    answers = []
    for model in (small, wide):
        with attach(model, PairMerge(), layer=layer) as attachment:
            answers.append(greedy(model, inputs))
            assert attachment.reports[0].tokens_out < attachment.reports[0].tokens_in
    assert_same(answers[0], answers[1], atol=tolerance(family.name))
