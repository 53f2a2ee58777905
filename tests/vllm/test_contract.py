"""What the plugin overrides in vLLM is there, with the same parameters: no engine is needed."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from sttm.vllm import ARCHITECTURES

NEW = {"_get_mm_hashes"}  # vLLM 0.31 does not have it, and keys by the request alone


def overridden(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    """Find the methods of sttm's mixins that vLLM's class has, too: name, ours and theirs."""
    ours = [part for part in cls.__mro__ if part.__module__.startswith("sttm.vllm")]
    [theirs] = [part for part in cls.__bases__ if part.__module__.startswith("vllm.")]
    for part in ours:
        for name, method in vars(part).items():
            if inspect.isfunction(method) and hasattr(theirs, name) and name[:2] != "__":
                yield name, method, getattr(theirs, name)


def parameters(method: Any) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name != "self"]


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_overridden_methods_have_the_same_parameters(name: str) -> None:
    module = import_module(f"sttm.vllm.{ARCHITECTURES[name]}")
    model, processor = getattr(module, name), module.Processor
    found = {method: (mine, theirs) for method, mine, theirs in overridden(model)}
    found |= {method: (mine, theirs) for method, mine, theirs in overridden(processor)}
    wanted = {"embed_multimodal", "_get_mm_fields_config", "_get_prompt_updates", *NEW}
    if "Qwen" in name:
        wanted |= {"get_mrope_input_positions", "get_encoder_cudagraph_config"}
    if "Qwen" in name and "Qwen2VL" not in name:  # vLLM does not prune Qwen2-VL's videos
        wanted.add("recompute_mrope_positions")
    assert wanted - NEW <= set(found) <= wanted
    for method, (mine, theirs) in found.items():
        if parameters(mine) != ["kwargs"]:
            assert parameters(mine) == parameters(theirs), method
    assert model._processor_factory.processor is processor
