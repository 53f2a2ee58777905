from pathlib import Path
from typing import Any

import pytest

from sttm.errors import ConfigError, VideoError
from sttm.integrations.lmms_eval.requests import (
    Request,
    check_file,
    from_messages,
    from_visuals,
)

GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


VIDEO = {"type": "video", "url": "a.mp4"}
WINDOW = {"type": "video", "url": "a.mp4", "video_start": 1.0, "video_end": 2.0}


def test_both_forms_say_the_same() -> None:
    simple = from_visuals("t", "Why?", ["a.mp4"], {"max_new_tokens": 4})
    chat = from_messages("t", [user(VIDEO, text("Why?"))], {"max_new_tokens": 4})
    assert simple == chat == Request("t", "a.mp4", "Why?", None, {**GREEDY, "max_new_tokens": 4})


def test_a_visual_alone_a_path_and_a_dictionary() -> None:
    wanted = from_visuals("t", "Why?", ["a.mp4"], None)
    for visuals in ("a.mp4", Path("a.mp4"), [{"type": "video", "path": "a.mp4"}], ["a.mp4", None]):
        assert from_visuals("t", "Why?", visuals, None) == wanted


def test_a_system_prompt_and_text_in_parts() -> None:
    system = {"role": "system", "content": "Be brief."}
    found = from_messages("t", [system, user(VIDEO, text("Why"), text("?"))], None)
    assert (found.system, found.question) == ("Be brief.", "Why?")


@pytest.mark.parametrize(
    ("visuals", "message"),
    [
        (["a.mp4", "b.mp4"], "got 2 x file, expected one video"),
        ([], "got none, expected one video"),
        (None, "got none, expected one video"),
        ([object()], "got object, expected the path"),
        ([{"type": "image", "url": "a.png"}], "got image, expected the path"),
        ([WINDOW], "got a video with video_start and video_end, expected a whole file"),
    ],
)
def test_other_visuals_are_refused(visuals: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"task, document 7: {message}"):
        from_visuals("task, document 7", "Why?", visuals, None)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([user(text("Look:"), VIDEO, text("Why?"))], "text in front of the video"),
        ([user(VIDEO, VIDEO, text("Why?"))], "got 2 x file, expected one video"),
        ([user(text("Why?"))], "got none, expected one video"),
        ([{"role": "user", "content": "Why?"}], "got none, expected one video"),
        ([user({"type": "image", "url": object()}, text("?"))], "got image, expected"),
        ([user({"type": "audio", "url": "a.wav"}, text("?"))], "got audio, expected"),
        (
            [user({"type": "video", "url": WINDOW}, text("?"))],
            "video_start and video_end, expected a whole",
        ),
        ([user({**VIDEO, "end_time": 2.0}, text("?"))], "end_time, expected a whole file"),
        (
            [user(VIDEO, text("?")), {"role": "assistant", "content": "A"}, user(text("?"))],
            "got messages of user, assistant, user, expected one",
        ),
        ([], "got messages of nobody"),
    ],
)
def test_other_conversations_are_refused(messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_messages("t", messages, None)


@pytest.mark.parametrize(
    ("given", "generate"),
    [
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, {"num_beams": 1}),
        # A temperature of zero is greedy, whatever else is said.
        ({"temperature": 0.0, "do_sample": True}, {}),
        ({"temperature": 0.7, "top_p": 0.9}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ({"do_sample": True, "top_k": 5}, {"do_sample": True, "top_k": 5}),
        ({"max_gen_toks": 9}, {"max_new_tokens": 9}),
        ({"max_gen_toks": 9, "max_new_tokens": 5}, {"max_new_tokens": 5}),
        ({"max_new_tokens": None}, {}),
    ],
)
def test_generation_arguments(given: dict[str, Any], generate: dict[str, Any]) -> None:
    wanted = generate if generate.get("do_sample") else {**GREEDY, **generate}
    assert from_visuals("t", "", "a.mp4", given).generate == wanted


def test_until_and_what_is_not_used() -> None:
    found = from_visuals("t", "", "a.mp4", {"until": ["\n\n", ""], "image_aspect_ratio": "pad"})
    assert (found.until, found.unused) == (("\n\n",), ("image_aspect_ratio",))
    assert from_visuals("t", "", "a.mp4", {"until": "stop"}).until == ("stop",)
    with pytest.raises(ConfigError, match="until: got \\[3\\], expected a text"):
        from_visuals("t", "", "a.mp4", {"until": [3]})


def test_the_file_is_looked_for(tmp_path: Path) -> None:
    for video, message in (
        (str(tmp_path), "got a folder"),
        (str(tmp_path / "none.mp4"), "got no such file"),
        ("https://example.org/a.mp4", "expected a file on this machine"),
    ):
        with pytest.raises(VideoError, match=message):
            check_file(Request("t", video, ""))
