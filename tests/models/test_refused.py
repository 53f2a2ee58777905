"""Nothing passes unreduced: what cannot be exact is an error that says what to do."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.cache_utils import Cache, DynamicLayer

from sttm import attach
from sttm.errors import UnreducedVideoError, UnsupportedModelError
from sttm.models import adapter_for, list_models

from . import configs
from .families import BY_NAME, FAMILIES, shared_model
from .layouts import Row, Text, Video
from .methods import PairMerge
from .names import with_cache

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(3), Text(5, seed=1))


def test_models_without_video_are_refused_by_name() -> None:
    text = configs.llava_onevision().text_config
    model = AutoModelForCausalLM.from_config(Qwen2Config(**text.to_dict()))
    with pytest.raises(UnsupportedModelError) as caught:
        attach(model, PairMerge())
    message = str(caught.value)
    assert "Qwen2ForCausalLM" in message
    assert all(family.model_type in message for family in FAMILIES)


def test_video_models_that_are_not_supported_are_refused_by_name() -> None:
    class Instructor(torch.nn.Module):
        config = type("InstructBlipVideoConfig", (), {"model_type": "instructblipvideo"})()

    with pytest.raises(UnsupportedModelError, match="instructblipvideo"):
        attach(Instructor(), PairMerge())
    with pytest.raises(UnsupportedModelError):
        adapter_for(object())


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl"])
def test_models_that_other_engines_run_are_refused_by_name(name: str) -> None:
    """Like optimum-intel's: the configuration of transformers, a method ``forward``, no module."""

    class OVModelForVisualCausalLM:
        config = shared_model(name).config

        def forward(self, input_ids: torch.Tensor) -> None: ...

    with pytest.raises(UnsupportedModelError, match=r"OVModelForVisualCausalLM .* OpenVINO"):
        attach(OVModelForVisualCausalLM(), PairMerge())


def test_the_list_of_models_names_every_family_under_test() -> None:
    types = {name for adapter in list_models() for name in adapter.model_types}
    assert types >= {family.model_type for family in FAMILIES}
    for family in FAMILIES:
        assert family.model_type in type(adapter_for(shared_model(family.name))).model_types


@pytest.mark.parametrize("name", ["llava_onevision", "llava_next_video", "qwen2_vl", "qwen3_vl"])
def test_a_video_that_chunked_prefill_splits_is_an_error(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    inputs = family.make_inputs(ROW)
    chunked = {"prefill_chunk_size": 12, "max_new_tokens": 1, "do_sample": False}
    model.generate(**inputs.tensors, **chunked)  # the library itself can
    with attach(model, PairMerge(), layer=1), pytest.raises(UnreducedVideoError, match="chunk"):
        model.generate(**inputs.tensors, **chunked)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl", "video_llama_3"])
def test_features_from_before_the_attachment_are_an_error(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    tensors = dict(family.make_inputs(ROW).tensors)
    wanted = model(**tensors).logits
    names = [n for n in tensors if n.startswith(("pixel_values", "video_merge"))]
    arguments = {n: tensors.pop(n) for n in names}
    if "video_grid_thw" in tensors:
        arguments["video_grid_thw"] = tensors["video_grid_thw"]
    features = model.model.get_video_features(**arguments, return_dict=True)
    assert torch.equal(model(**tensors, mm_encoder_outputs={"video": features}).logits, wanted)
    with attach(model, PairMerge(), layer=1), pytest.raises(UnreducedVideoError):
        model(**tensors, mm_encoder_outputs={"video": features})
    with attach(model, PairMerge(), layer=1) as attachment:
        features = model.model.get_video_features(**arguments, return_dict=True)
        model(**tensors, mm_encoder_outputs={"video": features})
        assert len(attachment.reports) == 1


class QuantizingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer of a kind that sttm does not know."""


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl"])
def test_other_caches_are_refused_by_name(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    cache = Cache(layer_class_to_replicate=QuantizingLayer)
    with (
        attach(model, PairMerge(), layer=1),
        pytest.raises(UnsupportedModelError, match="QuantizingLayer"),
    ):
        model(**family.make_inputs(ROW).tensors, **with_cache(cache), use_cache=True)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "video_llama_3"])
def test_four_dimensional_masks_are_refused(name: str, layer: int) -> None:
    family, model = BY_NAME[name], shared_model(name)
    inputs = family.make_inputs(ROW)
    causal = torch.ones(1, 1, inputs.length, inputs.length, dtype=torch.bool).tril()
    with (
        attach(model, PairMerge(), layer=layer),
        pytest.raises(UnsupportedModelError, match="mask"),
    ):
        model(**{**inputs.tensors, "attention_mask": causal})


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "video_llama_3"])
def test_embeddings_instead_of_ids_are_refused(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    tensors = dict(family.make_inputs(ROW).tensors)
    embeddings = model.get_input_embeddings()(tensors.pop("input_ids"))
    with (
        attach(model, PairMerge(), layer=1),
        pytest.raises(UnsupportedModelError, match="input_ids"),
    ):
        model(**tensors, inputs_embeds=embeddings)
