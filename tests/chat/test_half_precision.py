"""A chat in the precision of real checkpoints: the same cache, the same answers."""

import copy
from functools import cache
from typing import Any

import pytest
import torch

import sttm
from tests.models.methods import KeepAll, PairMerge
from tests.models.test_half_precision import TOLERANCES, apart

from .test_session import prompt
from .tiny import FAMILIES, Bundle, bundle, clip

QUESTION = "Which digit appears?"
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def half(name: str, dtype: torch.dtype) -> Bundle:
    tiny = bundle(name)
    return Bundle(copy.deepcopy(tiny.model).to(dtype), tiny.processor)


def chat_in(name: str, dtype: torch.dtype, method: Any) -> sttm.VideoChat:
    tiny = half(name, dtype)
    return sttm.VideoChat(tiny.model, tiny.processor, method, layer=1)


@every_dtype
@every_family
def test_keeping_all_answers_as_without_a_method(name: str, dtype: torch.dtype) -> None:
    options = {"max_new_tokens": 5, "return_dict_in_generate": True, "output_logits": True}
    wanted, got = (
        chat_in(name, dtype, method).watch(clip()).ask(QUESTION, **options)
        for method in (None, KeepAll())
    )
    assert got.ids == wanted.ids
    assert all(torch.equal(a, b) for a, b in zip(got.output.logits, wanted.output.logits))


@torch.no_grad()
@every_dtype
@every_family
def test_answers_follow_from_one_prompt_with_everything(name: str, dtype: torch.dtype) -> None:
    """Every step's logits are those of one forward pass over video, question and answer."""
    chat = chat_in(name, dtype, PairMerge())
    video = chat.watch(clip())
    held = [layer.keys.dtype for layer in video.cache.layers if hasattr(layer, "keys")]
    assert set(held) == {dtype}
    answer = video.ask(QUESTION, max_new_tokens=4, return_dict_in_generate=True, output_logits=True)
    inputs = prompt(half(name, dtype), clip(), [], QUESTION, chat)
    tensors = {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}
    ids = answer.output.sequences[:, :-1]
    for key in {"attention_mask", "mm_token_type_ids"} & tensors.keys():
        new = ids.shape[1] - tensors[key].shape[1]
        tensors[key] = torch.nn.functional.pad(tensors[key], (0, new), value=key[0] == "a")
    with sttm.attach(chat.model, PairMerge(), layer=1):
        whole = chat.model(**{**tensors, "input_ids": ids}).logits[0, -4:]
    got = torch.cat(answer.output.logits).to(dtype)
    assert apart(got, whole) < TOLERANCES[dtype]
    with sttm.attach(chat.model, PairMerge(), layer=2):
        other = chat.model(**{**tensors, "input_ids": ids}).logits[0, -4:]
    far, near = (float((got - each).abs().max()) for each in (other, whole))
    assert far > 2 * near
