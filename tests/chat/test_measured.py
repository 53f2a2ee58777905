"""A question is fed to the model alone: counted in front of the decoder, not computed."""

from typing import Any

import pytest
import torch

import sttm
from sttm.errors import ConfigError, IncompatibleTransformersError
from sttm.models.cache import ReducedLayer
from tests.models.methods import PairMerge
from tests.models.names import CACHE

from .tiny import FAMILIES, bundle, clip

QUESTION = "Which digit appears?"
both_ways = pytest.mark.parametrize("method", [None, PairMerge()], ids=["all", "merged"])


@both_ways
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_that_entered_the_decoder(name: str, method: Any) -> None:
    tiny, fed = bundle(name), []
    video = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1).watch(clip())
    hook = (
        tiny.model.get_decoder()
        .layers[0]
        .register_forward_pre_hook(lambda module, args: fed.append(args[0].shape[1]))
    )
    try:
        answer = video.ask(QUESTION, max_new_tokens=3)
        wide = video.ask(QUESTION, max_new_tokens=3, num_beams=2)
    finally:
        hook.remove()
    assert fed[0] == answer.prompt_tokens == wide.prompt_tokens
    assert fed[1] == 1
    prompt = video.prefix.prompt_ids(tiny.processor, [], QUESTION)
    assert len(prompt) - len(video.ids) <= answer.prompt_tokens <= len(QUESTION) + 40


@both_ways
@pytest.mark.parametrize("name", FAMILIES)
def test_a_question_in_chunks(name: str, method: Any) -> None:
    tiny = bundle(name)
    video = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1).watch(clip())
    whole = video.ask(QUESTION, max_new_tokens=3)
    try:
        parts = video.ask(QUESTION, max_new_tokens=3, prefill_chunk_size=7)
    except IncompatibleTransformersError as error:
        assert "were fed" in str(error)  # noqa: PT017 (5.19 and 5.20 split the whole prompt)
    else:
        assert (parts.prompt_tokens, parts.ids) == (whole.prompt_tokens, whole.ids)


@both_ways
@pytest.mark.parametrize("name", FAMILIES)
def test_a_cache_that_is_lost_on_the_way(
    name: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole prompt would be fed, bare placeholders in front of the question."""
    tiny = bundle(name)
    video = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1).watch(clip())
    generate = type(tiny.model).generate

    def without(model: Any, **arguments: Any) -> Any:
        return generate(model, **{n: v for n, v in arguments.items() if n != CACHE})

    monkeypatch.setattr(type(tiny.model), "generate", without)
    with pytest.raises(sttm.SttmError, match=r"were fed|placeholders"):
        video.ask(QUESTION, max_new_tokens=2)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_cache_that_counts_what_it_holds(
    name: str, layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What 5.24 did to older hooks: prompts were fed again, or crashed."""
    tiny = bundle(name)
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=layer)
    monkeypatch.setattr(ReducedLayer, "get_seq_length", ReducedLayer.num_entries)
    with pytest.raises(IncompatibleTransformersError, match="counts"):
        chat.watch(clip())


@both_ways
@pytest.mark.parametrize("which", ["all", "later", "decoding"])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_other_positions_than_were_asked_for(
    name: str, which: str, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = bundle(name)
    video = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1).watch(clip())
    text = tiny.model.get_decoder()
    called = type(text).__call__

    def shifted(self: Any, *args: Any, **kwargs: Any) -> Any:
        ids = kwargs["position_ids"].clone()
        if which == "all" or (which == "decoding") == (ids.shape[-1] == 1):
            ids[..., 1 if which == "later" else 0 :] += 40
        return called(self, *args, **{**kwargs, "position_ids": ids})

    monkeypatch.setattr(type(text), "__call__", shifted)
    with pytest.raises(IncompatibleTransformersError, match="at positions"):
        video.ask(QUESTION, max_new_tokens=4)


@both_ways
def test_a_rotary_embedding_called_past_its_hooks(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = bundle("qwen2_5_vl")
    chat = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1)
    rotary = type(tiny.model.get_decoder().rotary_emb)
    monkeypatch.setattr(rotary, "__call__", lambda self, *a, **k: self.forward(*a, **k))
    with pytest.raises(IncompatibleTransformersError, match="forward passes with 0 calls"):
        chat.watch(clip())


@pytest.mark.parametrize("where", ["argument", "generation_config"])
def test_guesses_are_not_fed_along(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = bundle("llava_onevision")
    video = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1).watch(clip())
    options: dict[str, Any] = {"prompt_lookup_num_tokens": 3}
    if where == "generation_config":
        monkeypatch.setattr(tiny.model.generation_config, "prompt_lookup_num_tokens", 3)
        options = {}
    with pytest.raises(ConfigError, match="prompt lookup"):
        video.ask(QUESTION, **options)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="assistant model"):
        video.ask(QUESTION, assistant_model=tiny.model)


def test_a_chat_with_a_lora_model_answers_like_the_model() -> None:
    peft = pytest.importorskip("peft")
    tiny = bundle("qwen2_5_vl")
    plain = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1).watch(clip())
    wanted = plain.ask(QUESTION, max_new_tokens=5).ids
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*(q_proj|v_proj)")
    model = peft.get_peft_model(tiny.model, config).eval()
    try:
        chat = sttm.VideoChat(model, tiny.processor, PairMerge(), layer=1)
        assert chat.watch(clip()).ask(QUESTION, max_new_tokens=5).ids == wanted
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 1)
        assert chat.watch(clip()).ask(QUESTION, max_new_tokens=5).ids != wanted
    finally:
        model.unload()
