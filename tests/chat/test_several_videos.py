"""Several videos in one conversation: each is read once, and answers equal those from scratch."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sttm
from sttm.chat import VideoStore
from sttm.chat.prompt import _MARK, Messages, opening, render
from sttm.chat.stepping import feed, prompt_of
from sttm.errors import ConfigError, UnsupportedModelError, VideoError
from tests.models.methods import KeepEvery, PairMerge

from .tiny import FAMILIES, Bundle, bundle, clip

FIRST, THEN = "Which digit appears?", "And what colour is it here?"
# These processors stack the frames of all videos of a call, so that the oracle needs equal lengths.
SAME_LENGTH = ("llava_onevision", "internvl")


def from_scratch(
    tiny: Bundle, chat: sttm.VideoChat, clips: list[Any], messages: Messages, question: str
) -> tuple[int, ...]:
    """Answer with one prompt that holds everything, by the processor and ``generate`` alone."""
    times = [
        {"fps": 1.0, "total_num_frames": len(c), "frames_indices": list(range(len(c)))}
        for c in clips
    ]
    inputs = tiny.processor(
        text=[render(tiny.processor, chat.system, messages, [], question)],
        videos=[clips],
        video_metadata=[times],
        do_sample_frames=False,
        return_tensors="pt",
    )
    inputs = {name: value for name, value in inputs.items() if name != "video_metadata"}
    method = chat.method or KeepEvery(1)
    with sttm.attach(tiny.model, method, layer=chat.layer, positions=chat.positions):
        out = tiny.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return tuple(out[0, inputs["input_ids"].shape[1] :].tolist())


def clips_for(name: str) -> list[Any]:
    return [clip(6), clip(6 if name in SAME_LENGTH else 4, seed=3)]


@pytest.mark.parametrize("positions", ["survived", "reassigned"])
@pytest.mark.parametrize("name", FAMILIES)
class TestAnswers:
    """Two videos in one message, in two messages, and one behind words alone."""

    def test_in_one_message(self, name: str, positions: Any) -> None:
        tiny, clips = bundle(name), clips_for(name)
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), positions=positions) as chat:
            both = chat.watch(clips)
            got = both.ask(FIRST, max_new_tokens=6)
        messages = ((None, None, ""),)
        assert both.prefix.messages == messages
        assert got.ids == from_scratch(tiny, chat, clips, messages, FIRST)
        assert [len(source.timestamps) for source in both.sources] == [len(c) for c in clips]
        assert sum(report.tokens_in for report in both.reports) == both.tokens_in
        assert sum(report.tokens_out for report in both.reports) == both.tokens_out

    def test_in_two_messages(self, name: str, positions: Any) -> None:
        tiny, clips = bundle(name), clips_for(name)
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), positions=positions) as chat:
            talk = chat.watch(clips[0]).conversation()
            answer = talk.ask(FIRST, max_new_tokens=6).text
            talk.watch(clips[1])
            got = talk.ask(THEN, max_new_tokens=6)
            assert talk.history[:1] == [(FIRST, answer)]
            assert [q for q, _ in talk.history] == [FIRST, THEN]
            more = talk.ask("Why?", max_new_tokens=6)
        messages: Messages = ((None, FIRST), (answer,), (None, ""))
        assert talk.video.prefix.messages == messages
        assert got.ids == from_scratch(tiny, chat, clips, messages, THEN)
        later = (*messages[:-1], (None, THEN), (got.text,), ("",))
        assert more.ids == from_scratch(tiny, chat, clips, later, "Why?")

    def test_behind_words(self, name: str, positions: Any) -> None:
        tiny, clips = bundle(name), clips_for(name)
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), positions=positions) as chat:
            late = chat.watch([("Hello?", "Yes."), clips[0]])
            got = late.ask(FIRST, max_new_tokens=6)
        messages: Messages = (("Hello?",), ("Yes.",), (None, ""))
        assert got.ids == from_scratch(tiny, chat, clips[:1], messages, FIRST)


@pytest.mark.parametrize(
    "turn",
    [
        *(("", ""), ("  Two \n\n", " spaces "), ("<|im_end|>\n<|im_start|>user\n", "</s>")),
        *((_MARK, "A"), ("Q", f"A {_MARK} B"), ("\u200b\x00", "\N{GRINNING FACE}e\u0301")),
    ],
)
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_whatever_was_said(name: str, turn: tuple[str, str]) -> None:
    tiny, clips = bundle(name), clips_for(name)
    with sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), system=_MARK) as chat:
        got = chat.watch([clips[0], turn, clips[1]]).ask(f"{_MARK}?", max_new_tokens=6)
    messages: Messages = ((None, turn[0]), (turn[1],), (None, ""))
    assert got.ids == from_scratch(tiny, chat, clips, messages, f"{_MARK}?")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", [None, sttm.STTM(keep=0.5)])
def test_words_alone(name: str, method: Any) -> None:
    tiny = bundle(name)
    with sttm.VideoChat(tiny.model, tiny.processor, method) as chat:
        words = chat.watch([])
        talk = words.conversation()
        got = [talk.ask(q, max_new_tokens=5) for q in (FIRST, THEN)]
    assert (words.tokens_in, words.tokens_out, words.retention) == (0, 0, 1.0)
    with pytest.raises(ConfigError, match="without a video"):
        _ = words.source
    history = [(FIRST, got[0].text)]
    text = render(tiny.processor, None, (("",),), history, THEN)
    inputs = tiny.processor(text=[text], return_tensors="pt")
    out = tiny.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert got[1].ids == tuple(out[0, inputs["input_ids"].shape[1] :].tolist())


def test_what_is_in_the_cache_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = bundle("qwen2_5_vl")
    with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
        talk = chat.watch(clip(6)).conversation()
        talk.ask(FIRST, max_new_tokens=6)
        fed: list[int] = []
        chat.adapter.text.layers[0].register_forward_pre_hook(
            lambda module, args: fed.append(args[0].shape[1])
        )
        before = len(talk.video.ids)
        talk.watch(clip(4, seed=3))
        own = talk.video.tokens_in - 27
        assert len(fed) == 1
        assert own <= fed[0] < own + 30  # the video, and the words that had not been fed
        assert len(talk.video.ids) > before
        chat.adapter.text.layers[0]._forward_pre_hooks.popitem()


def test_three_videos_and_two_threads() -> None:
    tiny, method = bundle("qwen3_vl"), sttm.STTM(keep=0.5)
    clips = [clip(4, seed=i) for i in range(3)]
    with sttm.VideoChat(tiny.model, tiny.processor, method) as chat:
        wanted = chat.watch(clips).ask(FIRST, max_new_tokens=6).ids
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(chat.watch, [clips, clips]))
        assert [each.ask(FIRST, max_new_tokens=6).ids for each in found] == [wanted, wanted]
    assert wanted == from_scratch(tiny, chat, clips, ((None, None, None, ""),), FIRST)


def test_saved_and_loaded(tmp_path: Path) -> None:
    tiny = bundle("qwen2_5_vl")
    shown = [clip(6), (FIRST, "A seven."), clip(4, seed=3)]
    with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
        made = chat.watch(shown)
        made.save(tmp_path / "two.sttm")
        again = chat.load(tmp_path / "two.sttm")
        assert again.prefix.messages == made.prefix.messages
        assert again.sources == made.sources
        assert again.ask(THEN).ids == made.ask(THEN).ids
        assert again.conversation().history == [(FIRST, "A seven.")]


class TestStore:
    """Each beginning of a list is stored by itself."""

    def test_beginnings_are_shared(self, tmp_path: Path) -> None:
        tiny, store = bundle("qwen2_5_vl"), VideoStore(tmp_path)
        a, b, c = clip(6), clip(4, seed=3), clip(4, seed=4)
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
            alone = store.watch(chat, a)
            both = store.watch(chat, [a, b])
            assert (alone.found.tokens, both.found) == (0, (1, len(alone.ids)))
            again = VideoStore(tmp_path).watch(chat, [a, b])
            assert again.found == (2, len(both.ids))
            assert again.ask(THEN).ids == both.ask(THEN).ids == chat.watch([a, b]).ask(THEN).ids
            other = store.watch(chat, [a, c])
            assert other.found == (1, len(alone.ids))
            keys = store.keys(chat, [a, b])
            assert keys == [store.key(chat, a), store.key(chat, [a, b])]
            entries = {entry.key: entry.videos for entry in store.entries()}
            assert [entries[key] for key in keys] == [1, 2]

    def test_order_words_and_contents_make_another_video(self) -> None:
        tiny, store = bundle("qwen2_5_vl"), VideoStore()
        a, b = clip(6), clip(4, seed=3)
        lists: list[Any] = [
            *([a, b], [b, a], [a, a], [a], [a, ("Q", "A"), b], [a, ("Q", "B"), b]),
            *([("Q", "A"), a, b], [("Q", "A"), a]),
        ]
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
            assert len({store.key(chat, each) for each in lists}) == len(lists)
            for shown in lists:
                assert store.watch(chat, shown).ask(THEN).ids == chat.watch(shown).ask(THEN).ids

    @pytest.mark.parametrize("on_disk", [False, True])
    def test_a_deleted_video_takes_the_lists_that_hold_it_along(
        self, tmp_path: Path, on_disk: bool
    ) -> None:
        tiny, store = bundle("qwen2_5_vl"), VideoStore(tmp_path if on_disk else None)
        a, b = clip(6), clip(4, seed=3)
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
            for shown in ([a, b], [b, a], [b]):
                store.watch(chat, shown)
            held = {store.key(chat, s): name for s, name in ((a, "a"), ([a, b], "ab"), (b, "b"))}
            held[store.key(chat, [b, a])] = "ba"
            if on_disk:
                store = VideoStore(tmp_path)  # by its files alone
            assert {held[key] for key in store.remove(store.key(chat, a))} == {"a", "ab", "ba"}
            assert [held[entry.key] for entry in store.entries()] == ["b"]

    def test_words_are_not_stored(self) -> None:
        tiny, store = bundle("qwen2_5_vl"), VideoStore()
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
            assert store.watch(chat, []).tokens_in == 0
            assert store.entries() == []
            with pytest.raises(ConfigError, match="no video"):
                store.key(chat, [])


def test_answers_go_on_while_a_second_video_is_watched() -> None:
    """What finds out a video's positions stops a forward pass: of its own thread alone."""
    tiny, found = bundle("qwen2_5_vl"), []
    with (
        sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat,
        ThreadPoolExecutor(1) as other,
    ):
        first = chat.watch(clip(6))
        ids = prompt_of(first, [], FIRST)
        watching = threading.get_ident()

        def answer(*_: Any) -> None:
            if threading.get_ident() == watching:
                found.append(other.submit(feed, first, ids).result().logits)

        handle = chat.adapter.text.register_forward_pre_hook(answer)
        first.conversation().watch(clip(4, seed=3))
        handle.remove()
        assert len(found) == 2
        assert all(torch.equal(logits, feed(first, ids).logits) for logits in found)


class TestBehind:
    """A conversation that a video follows on."""

    def test_a_failure_changes_nothing(self, tmp_path: Path) -> None:
        tiny = bundle("qwen2_5_vl")
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
            talk = chat.watch(clip(6)).conversation()
            with pytest.raises(VideoError):
                talk.watch([(FIRST, "A seven."), tmp_path / "none.mp4"])  # type: ignore[arg-type]
            assert talk.history == []
            with pytest.raises(ConfigError, match="got none behind a conversation"):
                talk.watch([])  # type: ignore[arg-type]
            shown: Any = [(FIRST, "A seven."), clip(4, seed=3)]
            both = chat.watch(shown, behind=talk)
            assert talk.history == []
            talk.watch(shown)
            assert talk.history == [(FIRST, "A seven.")] == both.conversation().history
            assert talk.ask(THEN, max_new_tokens=6).ids == both.ask(THEN, max_new_tokens=6).ids

    def test_goes_on_before_the_prefill(self) -> None:
        tiny, (a, b) = bundle("qwen2_5_vl"), (clip(6), clip(4, seed=3))
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
            talk = chat.watch(a).conversation()
            encoded = chat.encode(b, behind=talk)
            talk.watch(clip(4, seed=5))
            got = chat.prefill(encoded).ask(FIRST, max_new_tokens=6)
            assert got.ids == chat.watch([a, b]).ask(FIRST, max_new_tokens=6).ids

    def test_of_another_chat(self, tmp_path: Path) -> None:
        tiny = bundle("qwen2_5_vl")
        with (
            sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat,
            sttm.VideoChat(tiny.model, tiny.processor, sttm.STTM(keep=0.5)) as other,
            sttm.VideoChat(tiny.model, tiny.processor) as plain,
        ):
            talk = chat.watch(clip(6)).conversation()
            encoded = chat.encode(clip(4), behind=talk)
            with pytest.raises(ConfigError, match="of another chat"):
                other.watch(clip(4), behind=talk)
            with pytest.raises(ConfigError, match="of another chat"):
                other.prefill(encoded)
            talk.video.save(tmp_path / "a.sttm")
            loaded = plain.load(tmp_path / "a.sttm").conversation()
            with pytest.raises(ConfigError, match="Load them in a chat with pair_merge"):
                loaded.watch(clip(4))

    def test_by_a_method_that_cannot_be_compared(self) -> None:
        tiny, method, clips = bundle("qwen2_5_vl"), PairMerge(), [clip(6), clip(4, seed=3)]
        object.__setattr__(method, "opaque", object())  # as a network of the method's own
        with sttm.VideoChat(tiny.model, tiny.processor, method) as chat:
            assert chat.watch(clips).method != chat.watch(clips).method
            assert chat.watch(clips).ask(FIRST).ids == chat.watch(clips).ask(FIRST).ids

    def test_words_that_stand_for_a_video(self) -> None:
        tiny = bundle("qwen2_5_vl")
        with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
            talk = chat.watch(clip(6)).conversation()
            for turn in (("<|video_pad|>", "A"), ("Q", "<|image_pad|>")):
                talk.history[:] = [turn]
                with pytest.raises(ConfigError, match="an earlier message: got '<"):
                    talk.ask(THEN)


@pytest.mark.parametrize(
    ("shown", "error"),
    [
        ([clip(2), ("Q", "A")], "ends with a question"),
        ([clip(2), ("Q", "A", "B"), clip(2)], "tuple of 3"),
        ([["a.mp4"]], "list of 1"),
        ([np.zeros((4, 4, 3), np.uint8)] * 2, r"numpy\.stack"),
        ([("Q", "<|video_pad|>"), clip(2)], "an earlier message: got"),
        ([clip(2), 3], "got int"),
    ],
)
def test_bad_lists(shown: Any, error: str) -> None:
    tiny = bundle("qwen2_5_vl")
    with (
        sttm.VideoChat(tiny.model, tiny.processor) as chat,
        pytest.raises(ConfigError, match=error),
    ):
        chat.watch(shown)


def test_a_recurrent_state_cannot_go_back() -> None:
    """The text behind the first video was fed: a template that moves it needs the state before."""
    tiny = bundle("qwen3_5")
    with sttm.VideoChat(tiny.model, tiny.processor, PairMerge()) as chat:
        first = chat.watch(clip(4), context="Some words that are fed with the video.")
        talk = first.conversation()
        with pytest.raises(UnsupportedModelError, match="recurrent state"):
            talk.resume(torch.cat([first.ids[:-1], first.ids[-1:] + 1, first.ids[-1:]]))


def test_messages_of_an_opening() -> None:
    assert opening(((None, "ctx"),), [], "") == ((None, "ctx", None, ""),)
    assert opening((), [("Q", "A")], "c") == (("Q",), ("A",), (None, "c"))
