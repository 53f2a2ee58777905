"""A chat with a model that is compiled in parts, as ``layer.compile()`` does it."""

import copy

import pytest
import torch

import sttm
from tests.models.methods import PairMerge

from .tiny import bundle, clip

QUESTION = "Which digit appears?"


@pytest.mark.slow
def test_a_compiled_model_answers_alike() -> None:
    tiny = bundle("llava_onevision")
    plain = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1).watch(clip())
    wanted = plain.ask(QUESTION, max_new_tokens=3).ids
    model, compiled = copy.deepcopy(tiny.model), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compiled.append(graph)
        return graph.forward

    model.get_decoder().layers[2].compile(backend=backend)  # every layer takes seconds
    video = sttm.VideoChat(model, tiny.processor, PairMerge(), layer=1).watch(clip())
    assert compiled
    assert video.ask(QUESTION, max_new_tokens=3).ids == wanted
    torch._dynamo.reset()
