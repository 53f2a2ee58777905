"""Compiled layers under a reduction with an exact budget: videos of one shape share the graphs."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from sttm import STTM, attach

from .families import BY_NAME, shared_model
from .layouts import Row, Text, Video

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_no_layer_is_compiled_anew_for_another_video() -> None:
    family = BY_NAME["llava_onevision"]
    model = copy.deepcopy(shared_model(family.name))
    rows: list[Row] = [(Text(4), Video(3), Text(5, seed=seed)) for seed in range(4)]
    videos = [dict(family.make_inputs(row).tensors) for row in rows]
    for number, video in enumerate(videos):  # the same shape, other pixels
        pixels = video["pixel_values_videos"]
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(number))
        video["pixel_values_videos"] = noise.to(pixels)
    with attach(model, STTM(keep=0.5), layer=1):
        plain = [model(**video, use_cache=False).logits for video in videos]
        for layer in model.get_decoder().layers:
            layer.compile(backend="eager", dynamic=False)
        graphs = []
        for video, wanted in zip(videos, plain, strict=True):
            torch.testing.assert_close(model(**video, use_cache=False).logits, wanted)
            graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[1:] == [graphs[0]] * 3
