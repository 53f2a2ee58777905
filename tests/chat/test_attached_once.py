"""A chat has its hooks in place for its life: once, beside others, and gone without a trace."""

import gc
import threading
import time
from typing import Any

import pytest
import torch

import sttm
from sttm import ConfigError, VideoChat
from sttm.methods import STTM, RandomTokens

from .tiny import bundle, clip

FAMILY = "qwen2_5_vl"


def chat(method: Any = None) -> VideoChat:
    tiny = bundle(FAMILY)
    return VideoChat(tiny.model, tiny.processor, method, layer=None if method is None else 1)


def num_hooks() -> int:
    modules = bundle(FAMILY).model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.fixture(autouse=True)
def no_other_chats() -> None:
    gc.collect()  # chats of other tests


def test_asking_does_not_compile_other_functions_again() -> None:
    traced = []

    def backend(graph: Any, inputs: Any) -> Any:
        traced.append(graph)
        return graph.forward

    def other(x: torch.Tensor) -> torch.Tensor:
        return x.sin() + 1

    compiled: Any = torch.compile(other, backend=backend)
    with chat(STTM(keep=0.3)) as talk:
        compiled(torch.ones(3))
        video = talk.watch(clip())
        video.ask("Why?", max_new_tokens=2)
        video.ask("Where?", max_new_tokens=2)
        compiled(torch.ones(3))
        assert len(traced) == 1


def test_the_hooks_are_put_in_place_once_and_go() -> None:
    before = num_hooks()
    with chat(STTM(keep=0.3)) as talk:
        there = num_hooks()
        assert there > before
        talk.watch(clip()).ask("Why?", max_new_tokens=2)
        with chat(), chat(RandomTokens(keep=0.5)):
            assert num_hooks() == there
        assert num_hooks() == there
    assert num_hooks() == before
    talk.close()  # again
    assert num_hooks() == before


def test_a_chat_that_nothing_refers_to_takes_its_hooks_along() -> None:
    before = num_hooks()
    video = chat(STTM(keep=0.3)).watch(clip())
    assert num_hooks() > before  # the video's chat is alive
    video.ask("Why?", max_new_tokens=2)
    del video
    gc.collect()
    assert num_hooks() == before


def test_a_closed_chat_says_so() -> None:
    with chat(STTM(keep=0.3)) as talk:
        video = talk.watch(clip())
    for call in (lambda: talk.watch(clip()), lambda: video.ask("Why?")):
        with pytest.raises(ConfigError, match="closed chat"):
            call()


def test_chats_with_one_model_reduce_in_their_own_ways() -> None:
    with chat() as plain, chat(STTM(keep=0.3)) as merging, chat(RandomTokens(keep=0.5)) as random:
        whole = plain.watch(clip())
        seen = {each: each.watch(clip()) for each in (plain, merging, random)}
        for each, part in ((merging, 0.3), (random, 0.5)):
            assert seen[each].tokens_out == int(part * whole.tokens_in)
        assert seen[plain].entries == whole.entries
        asked = [seen[each].ask("Why?", max_new_tokens=4).ids for each in (random, merging, random)]
        assert asked[0] == asked[2]


def test_the_model_itself_is_not_reduced_beside_a_chat() -> None:
    tiny = bundle(FAMILY)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        alone = tiny.model(input_ids=ids).logits
        with chat(STTM(keep=0.3)):
            assert torch.equal(tiny.model(input_ids=ids).logits, alone)


def test_an_attachment_and_a_chat_stay_apart() -> None:
    tiny = bundle(FAMILY)
    with chat(STTM(keep=0.3)) as talk:
        video = talk.watch(clip())
        with sttm.attach(tiny.model, STTM(keep=0.5)):
            for call in (lambda: talk.watch(clip()), lambda: video.ask("Why?"), chat):
                with pytest.raises(ConfigError, match="something is attached"):
                    call()
        video.ask("Why?", max_new_tokens=2)


def test_a_chat_that_is_closed_while_another_thread_waits_reduces_nothing_in_silence() -> None:
    talk = chat(STTM(keep=0.3))
    encoded, told = talk.encode(clip()), list[Exception]()

    def prefill() -> None:
        try:
            talk.prefill(encoded)
        except ConfigError as error:
            told.append(error)

    with talk.lock:
        waiting = threading.Thread(target=prefill)
        waiting.start()
        time.sleep(0.2)
        talk.close()
    waiting.join()
    assert "closed chat" in str(told[0])


def test_a_chat_without_a_method_is_not_reduced_by_what_comes_in_between() -> None:
    tiny, attached = bundle(FAMILY), list[Any]()

    def attach_now(*_: Any) -> None:
        if not attached:
            attached.append(sttm.attach(tiny.model, STTM(keep=0.3), layer=1))

    handle = tiny.model.register_forward_pre_hook(attach_now)
    try:
        with chat() as plain:
            video = plain.watch(clip())
            assert len(set(video.entries)) == 1
    finally:
        handle.remove()
        attached[0].detach()


def test_questions_are_counted_in_their_own_thread() -> None:
    tiny = bundle(FAMILY)
    ids, over = torch.arange(4, 12)[None], threading.Event()

    def call() -> None:
        with torch.no_grad():
            while not over.is_set():
                tiny.model(input_ids=ids)

    other = threading.Thread(target=call)
    with chat(STTM(keep=0.3)) as talk:
        video = talk.watch(clip())
        other.start()
        try:
            for _ in range(3):
                video.ask("Why?", max_new_tokens=4)
        finally:
            over.set()
            other.join()
