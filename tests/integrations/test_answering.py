import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sttm
from sttm.errors import BudgetError, VideoError
from sttm.integrations.lmms_eval.answering import Answerer, Response
from sttm.integrations.lmms_eval.arguments import Arguments, read_arguments
from sttm.integrations.lmms_eval.requests import Request, from_visuals
from sttm.integrations.lmms_eval.stop_strings import cut_at
from sttm.nano.model import NANO_LAYER
from tests.integrations.conftest import Asked
from tests.video.video_clips import numbered

Nano = tuple[Any, Any]


def arguments(**given: Any) -> Arguments:
    return read_arguments({"pretrained": "nano", **given})


def answerer(nano: Nano, given: Arguments, heard: list[str] | None = None) -> Answerer:
    told: list[str] = [] if heard is None else heard
    return Answerer(*nano, given, layer=NANO_LAYER, warn=told.append)


def requests(asked: list[Asked], **generation: Any) -> list[Request]:
    given = {"max_new_tokens": 6, **generation}
    return [from_visuals(f"doc {i}", a.question, a.video, given) for i, a in enumerate(asked)]


def texts(replies: dict[int, Response]) -> list[str]:
    return [replies[place].text for place in range(len(replies))]


@pytest.mark.parametrize("keep", [0.3, 1])
def test_a_video_is_prefilled_once_whatever_the_order(
    nano: Nano, asked: list[Asked], keep: float
) -> None:
    given = arguments(keep=keep)
    found = answerer(nano, given)
    replies = dict(found.answer(requests(asked)))
    chat = sttm.VideoChat(*nano, given.reduction.method, layer=NANO_LAYER)
    watched = {item.video: chat.watch(item.video) for item in asked}
    alone = [watched[item.video].ask(item.question, max_new_tokens=6) for item in asked]
    assert texts(replies) == [answer.text for answer in alone]
    assert [replies[i].tokens for i in range(len(asked))] == [len(each.ids) for each in alone]
    assert [replies[i].retention for i in range(len(asked))] == [
        watched[item.video].retention for item in asked
    ]
    assert found.counts.prefills == len(watched) == 2
    # The questions that a video was opened for pay for it.
    assert replies[0].seconds > replies[2].seconds


def test_the_last_video_is_kept_for_the_next_call(nano: Nano, asked: list[Asked]) -> None:
    found = answerer(nano, arguments())
    for request in requests(asked[:1] * 2):
        list(found.answer([request]))
    assert found.counts.prefills == 1
    # Another system prompt stands in front of the video: it has to be read again.
    list(found.answer([replace(requests(asked)[0], system="Be brief.")]))
    assert found.counts.prefills == 2


def test_a_system_prompt_comes_first(nano: Nano, asked: list[Asked]) -> None:
    plain, own = requests(asked[:1])[0], replace(requests(asked[:1])[0], system="From the task.")
    found = answerer(nano, arguments(system_prompt="From the command line."))
    list(found.answer([own]))
    assert found._chat.system == "From the task."
    list(found.answer([plain]))
    assert found._chat.system == "From the command line."


def test_query_aware_methods_see_every_question(nano: Nano, asked: list[Asked]) -> None:
    given = arguments(method="fastv", keep=0.5)
    found = answerer(nano, given)
    replies = dict(found.answer(requests(asked)))
    assert found.counts.prefills == len(asked)
    assert replies[0].retention == pytest.approx(0.5, abs=0.01)
    model, processor = nano
    method = given.reduction.method
    assert method is not None
    video = sttm.video.read_video(asked[0].video)
    messages = [
        {
            "role": "user",
            "content": [{"type": "video"}, {"type": "text", "text": asked[0].question}],
        }
    ]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(
        text=[prompt], videos=[video.frames], do_sample_frames=False, return_tensors="pt"
    )
    with sttm.attach(model, method, layer=NANO_LAYER):
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    wanted = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert replies[0].text == wanted


def test_an_answer_ends_at_a_text(nano: Nano, asked: list[Asked]) -> None:
    found = answerer(nano, arguments(keep=1))
    whole = dict(found.answer(requests(asked, max_new_tokens=12, min_new_tokens=12)))[0]
    assert whole.tokens == 12
    end = whole.text[2:4]
    ended = dict(
        found.answer(requests(asked, max_new_tokens=12, min_new_tokens=12, until=[end, "never"]))
    )[0]
    assert ended.text == cut_at(whole.text, [end]).strip()
    assert len(ended.text) < len(whole.text)
    assert ended.tokens < whole.tokens


def test_cut() -> None:
    assert cut_at("A\n\nQ: B", ["\n\n", "Q:"]) == "A"
    assert cut_at("Q: B\n\n", ["\n\n", "Q:"]) == ""
    assert cut_at("A", ["\n\n"]) == "A"
    assert cut_at("A", []) == "A"


def test_a_missing_video_stops_before_anything_is_done(nano: Nano, asked: list[Asked]) -> None:
    found = answerer(nano, arguments())
    todo = requests(asked)
    todo[-1] = replace(todo[-1], video="none.mp4", where="t, document 9")
    with pytest.raises(VideoError, match=r"t, document 9: got no such file: none\.mp4"):
        list(found.answer(todo))
    assert found.counts.prefills == 0


@pytest.mark.parametrize("method", ["sttm", "fastv"])
def test_an_unreadable_video_stops_or_is_skipped(
    nano: Nano, asked: list[Asked], tmp_path: Path, method: str
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    todo = requests(asked[:3])
    todo[1] = replace(todo[1], video=str(bad))
    todo[2] = replace(todo[2], video="none.mp4")
    with pytest.raises(VideoError, match=r"doc 1: .*not a video"):
        list(answerer(nano, arguments(method=method, keep=0.5)).answer(todo[:2]))
    heard: list[str] = []
    found = answerer(nano, arguments(method=method, keep=0.5, on_error="skip"), heard)
    replies = dict(found.answer(todo))
    assert [replies[i].text == "" for i in range(3)] == [False, True, True]
    assert replies[1] == replies[2] == Response("", 0, 0.0, None)
    assert found.counts.skipped == 2
    assert ["doc 1" in heard[0], "none.mp4" in heard[1]] == [True, True]


def test_a_budget_out_of_reach_stops_or_is_skipped(nano: Nano, asked: list[Asked]) -> None:
    given = arguments(keep=3, temporal_threshold="none")  # at least one token per frame stays
    with pytest.raises(BudgetError, match="doc 0: keep: got 3"):
        list(answerer(nano, given).answer(requests(asked)))
    found = answerer(nano, replace(given, on_error="skip"))
    assert set(texts(dict(found.answer(requests(asked))))) == {""}
    assert found.counts.skipped == len(asked)


def test_a_damaged_video_is_told(nano: Nano, asked: list[Asked], tmp_path: Path) -> None:
    clip = numbered(tmp_path / "clip.mkv", 300)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    heard: list[str] = []
    request = replace(requests(asked)[0], video=str(clip))
    list(answerer(nano, arguments(), heard).answer([request]))
    assert len(heard) == 1
    assert re.match(r"doc 0: .*cut short", heard[0])
