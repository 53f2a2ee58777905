"""Stored features give what encoding the frames gives, bit for bit."""

from typing import Any

import pytest
import torch

import sttm
from sttm.chat.records import Encoded
from sttm.errors import VideoError
from sttm.evaluation.features.replay import record, replay
from sttm.evaluation.features.stored import from_bytes, to_bytes
from tests.chat.test_session import from_scratch
from tests.chat.tiny import clip
from tests.models.methods import PairMerge
from tests.models.names import with_cache

from .tiny import FAMILIES, bundle, video


def assert_same(a: Encoded, b: Encoded) -> None:
    """Everything that a prefill reads is the same, to the last bit."""
    assert (a.prefix.before, a.prefix.rest) == (b.prefix.before, b.prefix.rest)
    assert (a.prefix.system, a.prefix.context) == (b.prefix.system, b.prefix.context)
    assert torch.equal(a.prefix.head, b.prefix.head)
    assert (a.tokens, a.source) == (b.tokens, b.source)
    assert list(a.inputs) == list(b.inputs)
    for name, value in a.inputs.items():
        assert value.dtype == b.inputs[name].dtype
        assert torch.equal(value, b.inputs[name]), name
    assert same_tree(a.features.pooler_output, b.features.pooler_output)
    deep = [getattr(part.features, "deepstack_features", None) for part in (a, b)]
    assert same_tree(*deep)
    assert [v.grid for v in a.features.sttm_videos] == [v.grid for v in b.features.sttm_videos]


def same_tree(a: Any, b: Any) -> bool:
    """Whether nested tensors are equal, in the same containers."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if a is None:
        return b is None
    parts = (same_tree(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and all(parts)


@torch.no_grad()
def logits(chat: sttm.VideoChat, encoded: Encoded) -> torch.Tensor:
    """The last token's logits behind the prefill and a question."""
    watched = chat.prefill(encoded)
    ids = watched.prefix.prompt_ids(chat.processor, [], "What is it?")
    known = len(watched.ids)
    places = torch.arange(known, len(ids)) + watched.next_position - known
    with chat.reducing(watched.layer, watched.positions):
        out = chat.model(
            input_ids=ids[None, known:],
            position_ids=places[None],
            **with_cache(watched.cache),
            use_cache=True,
        )
    found: torch.Tensor = out.logits[0, -1]
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_features_equal_frames_to_the_last_bit(name: str) -> None:
    tiny, made = bundle(name), video()
    stored = from_bytes(to_bytes(record(sttm.VideoChat(tiny.model, tiny.processor), made)), "x")
    assert stored.video.frames.nbytes > 0
    assert stored.video.frames.strides == (0, 0, 0, 0)
    for method, system, context in ((None, None, ""), (PairMerge(), "Be brief.", "It said: ha. ")):
        chat = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1, system=system)
        encoded, again = chat.encode(made, context=context), replay(chat, stored, context)
        assert_same(encoded, again)
        assert torch.equal(logits(chat, encoded), logits(chat, again))


def test_every_family_is_tested() -> None:
    tested = {bundle(name).model.config.model_type for name in FAMILIES}
    siblings = {"qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe"}
    assert {kind for f in sttm.models.list_models() for kind in f.model_types} == tested | siblings


@pytest.mark.parametrize("question", ["Which digit?", " spaces", "\nlines"])
def test_text_that_a_processor_adds_behind_the_video(question: str) -> None:
    tiny, chat_of = bundle("smolvlm"), sttm.VideoChat
    chat = chat_of(tiny.model, tiny.processor)
    watched = chat.watch(clip(5), context="So. ")
    ids = watched.prefix.prompt_ids(tiny.processor, [], question)
    text = tiny.processor.tokenizer.decode(ids)
    assert text.endswith(f"\n\nSo. {question}<end_of_utterance>\nAssistant:")


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_answers_equal_a_prompt_from_scratch(name: str) -> None:
    tiny, frames = bundle(name), clip()
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1)
    stored = record(chat, chat._read(frames, tell=print, fps=1.0))
    answer = chat.prefill(replay(chat, stored)).ask("What?", max_new_tokens=5)
    assert answer.ids == from_scratch(tiny, frames, [], "What?", chat)[:5]


def test_the_processor_is_left_alone() -> None:
    tiny = bundle("qwen2_5_vl")
    before = dict(vars(tiny.processor))
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    replay(chat, record(chat, video()))
    assert vars(tiny.processor) == before
    assert chat.processor is tiny.processor


DEEP = (100_000).to_bytes(8, "little") + b"[" * 100_000


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x00" * 50, b"\xff" * 50, DEEP])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(VideoError, match="holds no features"):
        from_bytes(content, "clip.safetensors")


def test_a_safetensors_file_of_something_else_is_refused() -> None:
    from safetensors.torch import save

    for metadata in (None, {"sttm": "{}"}, {"other": "x"}):
        with pytest.raises(VideoError, match="holds no features"):
            from_bytes(save({"a": torch.ones(2)}, metadata=metadata), "clip.safetensors")


def test_a_file_that_was_cut_off_is_refused() -> None:
    tiny = bundle("llava_onevision")
    content = to_bytes(record(sttm.VideoChat(tiny.model, tiny.processor), video()))
    for size in (4, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(VideoError, match="holds no features"):
            from_bytes(content[:size], "clip.safetensors")
