"""What a client of OpenAI's API sees, with the official client where it is installed."""

import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpcore
import pytest

from sttm.server.config import Limits
from sttm.server.openai_schema import Message, TextPart, VideoPart, VideoUrl, read_talk
from sttm.server.uploads import Uploads
from tests.docs.pages import DOCS, blocks

from .conftest import NAME, Running, Sample, request

Serve = Callable[..., Running]


def test_the_official_client(serve: Serve, samples: list[Sample]) -> None:
    openai = pytest.importorskip("openai")
    running = serve()
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
    assert [each.id for each in client.models.list()] == [NAME]
    for sample in samples[:2]:
        body = request(sample.url, sample.question)
        first = client.chat.completions.create(**body)
        assert first.choices[0].message.content == sample.answer
        assert first.choices[0].finish_reason == "stop"
        assert first.usage.prompt_tokens_details.cached_tokens == 0
        again = client.chat.completions.create(**body)
        assert again.choices[0].message.content == sample.answer
        usage = again.usage
        assert usage.prompt_tokens == first.usage.prompt_tokens
        assert usage.prompt_tokens - 30 < usage.prompt_tokens_details.cached_tokens
        assert usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert again.sttm["cached"] is True
        assert again.sttm["retention"] == pytest.approx(0.3, abs=0.01)
        chunks = list(
            client.chat.completions.create(
                **body, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == sample.answer
        assert chunks[-1].usage.completion_tokens == usage.completion_tokens
        assert chunks[-2].choices[0].finish_reason == "stop"
    assert (running.found("store"), running.found("watched")) == (4, 2)


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")
def test_the_snippet_of_the_page(
    serve: Serve,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openai")
    (tmp_path / "clip.mp4").write_bytes(samples[3].path.read_bytes())
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/serve.md", "python")
    assert "http://127.0.0.1:8000" in block.code
    exec(block.code.replace("http://127.0.0.1:8000", serve().url), {})
    text, numbers = capsys.readouterr().out.splitlines()
    assert text
    assert numbers.split() == ["0", "0.2995"]


def test_budget_and_sampling_of_a_request(serve: Serve, samples: list[Sample]) -> None:
    running = serve()
    for keep, share in ((1.0, 1.0), (0.5, 0.5), (64, None)):
        status, body = running.ask(samples[1].url, sttm={"keep": keep, "max_frames": 8})
        assert status == 200
        out = body["sttm"]["tokens_out"]
        assert out == (64 if share is None else share * body["sttm"]["tokens_in"])
        assert body["sttm"]["frames"] == 8
        assert body["sttm"]["cached"] is False


def test_several_turns(serve: Serve, samples: list[Sample], model: Any) -> None:
    running, sample = serve(), samples[0]
    body = request(sample.url, sample.question)
    body["messages"] += [
        {"role": "assistant", "content": sample.answer},
        {"role": "user", "content": "How many digits appear?"},
    ]
    status, answer = running.call("POST", "/v1/chat/completions", body)
    assert status == 200
    chat = running.service._chats.get(None, None)
    video = running.store.find(chat, answer["sttm"]["video_id"])
    assert video is not None
    talk = video.conversation()
    assert talk.ask(sample.question).text == sample.answer
    wanted = talk.ask("How many digits appear?").text
    assert answer["choices"][0]["message"]["content"] == wanted


def test_a_system_prompt_is_a_video_of_its_own(serve: Serve, samples: list[Sample]) -> None:
    running = serve()
    body = request(samples[1].url, samples[1].question)
    running.call("POST", "/v1/chat/completions", body)
    body["messages"].insert(0, {"role": "system", "content": "Answer in one word."})
    _, answer = running.call("POST", "/v1/chat/completions", body)
    assert answer["sttm"]["cached"] is False
    assert len(running.store.entries()) == 2


def content(*parts: str) -> list[dict[str, Any]]:
    """Parts of a message: videos by URL, and text."""
    return [
        {"type": "video_url", "video_url": {"url": part}}
        if part.startswith("data:")
        else {"type": "text", "text": part}
        for part in parts
    ]


class TestSeveralVideos:
    """A conversation may show several videos, at any turn, or none."""

    def test_in_one_message(self, serve: Serve, samples: list[Sample]) -> None:
        running, (a, b) = serve(), samples[:2]
        _, first = running.ask(a.url, a.question)
        asked = [{"role": "user", "content": content(a.url, b.url, "Which digit appears?")}]
        body = {"model": NAME, "messages": asked, "max_tokens": 8}
        status, answer = running.call("POST", "/v1/chat/completions", body)
        assert status == 200
        chat = running.service._chats.get()
        both = chat.watch([a.path, b.path], max_frames=32)
        wanted = both.ask("Which digit appears?", max_new_tokens=8).text
        assert answer["choices"][0]["message"]["content"] == wanted
        told = answer["sttm"]
        assert (told["tokens_in"], told["tokens_out"]) == (both.tokens_in, both.tokens_out)
        assert told["frames"] == sum(len(source.timestamps) for source in both.sources)
        assert told["cached"] is False
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert first["sttm"]["tokens_in"] < cached < told["tokens_in"]  # the first video was there
        again = running.call("POST", "/v1/chat/completions", body)[1]
        assert again["sttm"]["cached"] is True
        assert again["choices"] == answer["choices"]
        videos = {video["id"]: video["videos"] for video in self.listed(running)}
        assert videos == {first["sttm"]["video_id"]: 1, told["video_id"]: 2}
        assert running.found("watched") == 2

    def test_in_a_later_message(self, serve: Serve, samples: list[Sample]) -> None:
        running, (a, b) = serve(), samples[:2]
        asked = [
            {"role": "user", "content": content(a.url, a.question)},
            {"role": "assistant", "content": a.answer},
            {"role": "user", "content": content(a.url, b.url, b.question)},  # the first repeated
        ]
        body = {"model": NAME, "messages": asked, "max_tokens": 8}
        status, answer = running.call("POST", "/v1/chat/completions", body)
        assert status == 200
        chat = running.service._chats.get()
        shown = chat.watch([a.path, (a.question, a.answer), b.path], max_frames=32)
        wanted = shown.ask(b.question, max_new_tokens=8).text
        assert answer["choices"][0]["message"]["content"] == wanted
        assert len(self.listed(running)) == 2

    def test_words_alone(self, serve: Serve, samples: list[Sample]) -> None:
        """Front ends ask for titles; such a request and one about a video share no batch."""
        running, sample = serve(), samples[0]
        with ThreadPoolExecutor() as pool:
            asked = [{"role": "user", "content": "Suggest a title."}]
            body = {"model": NAME, "messages": asked, "max_tokens": 8}
            waiting = pool.submit(running.call, "POST", "/v1/chat/completions", body)
            _, about = running.ask(sample.url, sample.question)
            status, answer = waiting.result()
        assert status == 200
        assert about["choices"][0]["message"]["content"] == sample.answer
        told = answer["sttm"]
        assert (told["video_id"], told["tokens_in"], told["frames"]) == (None, 0, 0)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        wanted = running.service._chats.get().watch([]).ask("Suggest a title.", max_new_tokens=8)
        assert answer["choices"][0]["message"]["content"] == wanted.text
        assert len(self.listed(running)) == 1

    def test_pictures_are_those_of_the_last(self, serve: Serve, samples: list[Sample]) -> None:
        running, ids = serve(), []
        for sample in samples[:2]:
            with sample.path.open("rb") as file:
                ids.append(running.service.uploads.add(file, "a.mp4", "vision").id)
        parts = [{"type": "file", "file": {"file_id": each}} for each in ids]
        asked = [{"role": "user", "content": [*parts, *content("Which digit?")]}]
        body = {"model": NAME, "messages": asked, "max_tokens": 8}
        _, answer = running.call("POST", "/v1/chat/completions", body)
        facts = running.call("GET", f"/v1/videos/{answer['sttm']['video_id']}")[1]
        assert facts["file_id"] == ids[1]
        first = next(v for v in self.listed(running) if v["videos"] == 1)
        assert running.call("GET", f"/v1/videos/{first['id']}")[1]["file_id"] == ids[0]

    def test_too_many(self, serve: Serve, samples: list[Sample]) -> None:
        running = serve(Limits(videos=1))
        asked = [{"role": "user", "content": content(samples[0].url, samples[1].url, "Which?")}]
        body = {"model": NAME, "messages": asked}
        status, answer = running.call("POST", "/v1/chat/completions", body)
        assert (status, answer["error"]["code"]) == (400, "too_many_videos")
        assert list(running.service.config.folder.iterdir()) == []

    @pytest.mark.parametrize("place", ["system", "before", "between", "behind", "alone"])
    def test_too_many_words(self, serve: Serve, samples: list[Sample], place: str) -> None:
        """They are counted wherever they stand, and before anything is watched."""
        running, words = serve(Limits(prompt_tokens=200)), "word " * 150
        asked: list[dict[str, Any]] = [
            {"role": "user", "content": content(words if place == "before" else "Hello?")},
            {"role": "assistant", "content": words * (place == "before")},
            {"role": "user", "content": content(samples[3].url, "Which?")},
            {"role": "assistant", "content": words * (place == "between")},
            {"role": "user", "content": content(samples[2].url, "And which?")},
            {"role": "assistant", "content": words * (place == "behind")},
            {"role": "user", "content": "And now?"},
        ]
        if place == "system":
            asked.insert(0, {"role": "system", "content": words * 2})
        if place == "alone":
            asked = [{"role": "user", "content": words * 2}]
        body = {"model": NAME, "messages": asked, "max_tokens": 4}
        status, answer = running.call("POST", "/v1/chat/completions", body)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "expected at most 200 tokens" in answer["error"]["message"]
        assert running.store.misses == 0

    def test_many_short_turns(self, serve: Serve) -> None:
        """What the template puts around each counts, too; nothing huge is tokenized."""
        running = serve(Limits(prompt_tokens=200))
        turns: list[dict[str, Any]] = [{"role": "user", "content": "a"}]
        turns += [{"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}] * 50
        huge = [{"role": "user", "content": "a" * 10**6}]
        for asked, said in ((turns, " tokens beside"), (huge, "got 1000000 characters")):
            body = {"model": NAME, "messages": asked, "max_tokens": 4}
            status, answer = running.call("POST", "/v1/chat/completions", body)
            assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
            assert said in answer["error"]["message"]

    def test_words_that_stand_for_a_video(self, serve: Serve, samples: list[Sample]) -> None:
        running = serve()
        for said, answered in (("<video>", "Yes."), ("Hello?", "<image>")):
            asked = [
                {"role": "user", "content": content(samples[3].url, said)},
                {"role": "assistant", "content": answered},
                {"role": "user", "content": "And now?"},
            ]
            body = {"model": NAME, "messages": asked, "max_tokens": 4}
            status, answer = running.call("POST", "/v1/chat/completions", body)
            assert status == 400
            assert "an earlier message: got '<" in answer["error"]["message"]

    def test_one_of_two_is_broken(self, serve: Serve, samples: list[Sample]) -> None:
        running = serve()
        broken = "data:video/mp4;base64," + base64.b64encode(b"....ftyp" + bytes(99)).decode()
        for urls in ((samples[0].url, broken), (broken, samples[0].url), (samples[0].url, "data:")):
            asked = [{"role": "user", "content": content(*urls, "Which?")}]
            body = {"model": NAME, "messages": asked}
            status, answer = running.call("POST", "/v1/chat/completions", body)
            assert status == 400, answer
        assert list(running.service.config.folder.iterdir()) == []
        assert running.ask(samples[0].url)[0] == 200

    def listed(self, running: Any) -> list[dict[str, Any]]:
        return running.call("GET", "/v1/videos")[1]["data"]  # type: ignore[no-any-return]


def test_many_urls_are_read_at_once() -> None:
    """In the event loop, before they are found to be too many."""
    part = [VideoPart(type="video_url", video_url=VideoUrl(url=f"file-{i}")) for i in range(60_000)]
    message = Message(role="user", content=[*part, TextPart(type="text", text="Which?")])
    turns = [message, Message(role="assistant", content="A"), message]
    start = time.process_time()
    assert len(read_talk(turns).urls) == 60_000
    assert time.process_time() - start < 5  # in any number of URLs, each is looked up once


def test_length_and_stop(serve: Serve, samples: list[Sample]) -> None:
    running, sample = serve(), samples[0]
    _, short = running.ask(sample.url, sample.question, max_tokens=1)
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 1
    _, stopped = running.ask(sample.url, sample.question, stop=sample.answer[-1])
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["choices"][0]["message"]["content"] == sample.answer[:-1]


def test_a_seed_repeats_a_draw(serve: Serve, samples: list[Sample]) -> None:
    running, sample = serve(), samples[0]

    def draw(seed: int) -> str:
        _, body = running.ask(sample.url, sample.question, temperature=2, seed=seed)
        return str(body["choices"][0]["message"]["content"])

    drawn = [draw(seed) for seed in range(6)]
    assert len(set(drawn)) > 1
    assert drawn == [draw(seed) for seed in range(6)]


@pytest.mark.parametrize(
    ("change", "status", "code", "said"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "got 'gpt-4', expected 'nano'"),
        ({"n": 2}, 400, "unsupported_parameter", "n: got 2"),
        ({"tool_choice": "required"}, 400, "unsupported_parameter", "tool_choice: got 'required'"),
        ({"function_call": {"name": "f"}}, 400, "unsupported_parameter", "function_call"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "response_"),
        ({"temperature": 3}, 400, "invalid_value", "temperature: Input should be less than"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        (
            {"messages": [{"role": "tool", "content": "Hi"}]},
            400,
            "invalid_value",
            "messages.0.role",
        ),
        ({"sttm": {"keep": 0}}, 400, "invalid_value", "sttm.keep"),
        ({"sttm": {"kept": 0.3}}, 400, "invalid_value", "sttm.kept"),
        ({"sttm": {"max_frames": 1000}}, 400, "invalid_value", "got 1000, expected at most 32"),
    ],
)
def test_bad_requests(
    serve: Serve,
    samples: list[Sample],
    change: dict[str, Any],
    status: int,
    code: str,
    said: str,
) -> None:
    body = {**request(samples[3].url, "Which digit?"), **change}
    got, answer = serve().call("POST", "/v1/chat/completions", body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert said in answer["error"]["message"]


def test_tools_may_be_offered(serve: Serve, samples: list[Sample]) -> None:
    """Front ends offer tools with every question: an answer in words is one to that, too."""
    sample = samples[0]
    tools = [{"type": "function", "function": {"name": "get_time", "parameters": {}}}]
    for choice in ({}, {"tool_choice": "auto"}):
        status, body = serve().ask(sample.url, sample.question, tools=tools, **choice)
        assert status == 200
        assert body["choices"][0]["message"]["content"] == sample.answer


def test_what_is_not_there(serve: Serve) -> None:
    running = serve()
    assert running.call("GET", "/healthz") == (200, {"status": "ok"})
    for path in ("/", "/docs", "/openapi.json", "/v1/models/other", "/v1/files/file-x"):
        status, body = running.call("GET", path)
        assert status == 404
        assert body["error"]["message"]
    assert running.call("GET", "/v1/chat/completions")[0] == 405


def test_uploads_and_videos(serve: Serve, samples: list[Sample]) -> None:
    openai = pytest.importorskip("openai")
    running, sample = serve(Limits(upload_mib=0.2)), samples[3]
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
    with sample.path.open("rb") as content:
        file = client.files.create(file=("../../evil name.mp4", content), purpose="user_data")
    assert file.bytes == sample.path.stat().st_size
    assert [each.id for each in client.files.list()] == [file.id]
    assert client.files.retrieve(file.id).purpose == "user_data"
    names = sorted(path.name for path in running.service.config.folder.iterdir())
    assert names == [f"{file.id}.json", f"{file.id}.video"]
    part = {"type": "file", "file": {"file_id": file.id}}
    for video_part in (part, {"type": "video_url", "video_url": {"url": file.id}}):
        parts = [video_part, {"type": "text", "text": sample.question}]
        asked = [{"role": "user", "content": parts}]
        answer = client.chat.completions.create(model=NAME, messages=asked)
        assert answer.choices[0].message.content == sample.answer
    _, listed = running.call("GET", "/v1/videos")
    (video,) = listed["data"]
    assert video["id"] == answer.sttm["video_id"]
    assert (video["tokens_in"], video["where"]) == (answer.sttm["tokens_in"], "host")
    assert isinstance(video["created"], int)
    with pytest.raises(openai.APIStatusError, match="all files together"):
        client.files.create(file=("large.mp4", bytes(2**18)), purpose="user_data")
    assert client.files.delete(file.id).deleted
    assert running.call("GET", f"/v1/files/{file.id}")[0] == 404
    assert running.ask(sample.url)[1]["sttm"]["cached"] is True  # what was watched stays
    assert running.call("DELETE", f"/v1/videos/{video['id']}")[1]["deleted"] is True
    assert running.call("DELETE", f"/v1/videos/{video['id']}")[0] == 404
    assert running.ask(sample.url)[1]["sttm"]["cached"] is False
    assert list(running.service.config.folder.iterdir()) == []


def test_uploads_survive_a_restart(samples: list[Sample], tmp_path: Path) -> None:
    with samples[3].path.open("rb") as content:
        made = Uploads(tmp_path, Limits()).add(content, "a.mp4", "vision")
    (tmp_path / "file-broken.json").write_text("{")
    (tmp_path / "file-alone.json").write_text("{}")
    again = Uploads(tmp_path, Limits())
    assert again.list() == [made]
    assert again.path(made.id).read_bytes() == samples[3].path.read_bytes()


def test_metrics(serve: Serve, samples: list[Sample]) -> None:
    running = serve()
    for _ in range(3):
        running.ask(samples[3].url)
    running.ask("data:,")
    text = httpcore.request("GET", f"{running.url}/metrics").content.decode()
    assert 'sttm_videos_total{found="watched"} 1.0' in text
    assert 'sttm_videos_total{found="store"} 2.0' in text
    assert "sttm_ttft_seconds_count 3.0" in text
    route = 'route="/v1/chat/completions"'
    assert f'sttm_requests_total{{{route},status="200"}} 3.0' in text
    assert f'sttm_requests_total{{{route},status="400"}} 1.0' in text
    counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    saved, video_in = (
        counts["sttm_saved_tokens_total"],
        counts['sttm_video_tokens_total{where="in"}'],
    )
    assert float(saved) > 2 * float(video_in)
    assert counts["sttm_open_answers"] == "0.0"
