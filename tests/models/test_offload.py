"""Weights that accelerate keeps elsewhere, and moves in and out with hooks of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

from sttm import attach

from .families import BY_NAME, Inputs
from .layouts import Row, Text, Video
from .methods import ContentMerge
from .running import greedy

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(3), Text(5, seed=1))
NAMES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl", "qwen3_5")


def _to_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, str(folder), execution_device="cpu")


def _in_parts(model: Any, folder: Path) -> Any:
    """Half of the decoder layers on disk, the rest where it is, as ``device_map`` does it."""
    places: dict[str, str] = {"lm_head": "cpu"}
    for name, _ in model.base_model.named_children():
        places[f"model.{name}"] = "cpu"
    for name, _ in model.base_model.named_parameters(recurse=False):
        places[f"model.{name}"] = "cpu"
    text = next(name for name, part in model.named_modules() if part is model.get_decoder())
    places.pop(text)
    for name, _ in model.get_decoder().named_children():
        places[f"{text}.{name}"] = "cpu"
    places.pop(f"{text}.layers")
    for index in range(len(model.get_decoder().layers)):
        places[f"{text}.layers.{index}"] = "disk" if index % 2 else "cpu"
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder))


def _logits(model: Any, inputs: Inputs) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs.tensors).logits
    return logits


def _answer(model: Any, inputs: Inputs) -> torch.Tensor:
    return greedy(model, inputs, 4).logits


@pytest.mark.parametrize("run", [_logits, _answer], ids=["forward", "generate"])
@pytest.mark.parametrize(
    ("offload", "name"),
    [
        *((_in_parts, name) for name in NAMES),
        # the library itself reads LLaVA's newline while it is on the disk
        *((_to_disk, name) for name in NAMES[1:]),
    ],
)
def test_outputs_are_those_of_the_model_in_memory(
    name: str,
    offload: Callable[[Any, Path], Any],
    run: Callable[[Any, Inputs], torch.Tensor],
    tmp_path: Path,
) -> None:
    inputs, plain = BY_NAME[name].make_inputs(ROW), BY_NAME[name].make_model()
    with attach(plain, ContentMerge(), layer=2):
        wanted = run(plain, inputs)
    model = offload(BY_NAME[name].make_model(), tmp_path)
    kept = run(model, inputs)
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    with attach(model, ContentMerge(), layer=2) as attachment:
        got = run(model, inputs)
        assert len(attachment.reports) == 1
    assert torch.equal(got, wanted)
    assert torch.equal(run(model, inputs), kept)
    assert not torch.equal(kept, wanted)
