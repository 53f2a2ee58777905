"""The function for Open WebUI, with the two of Open WebUI's modules that it asks played here."""

import asyncio
import base64
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "open_webui_filter.py"


@pytest.fixture
def inlet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the function; the user ``u`` has the files ``a`` and ``b``."""
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())

    async def find(file: str, user: str) -> Any:
        return (
            SimpleNamespace(path=str(tmp_path / file)) if (file in "ab") and user == "u" else None
        )

    files, provider = ModuleType("files"), ModuleType("provider")
    files.Files = SimpleNamespace(get_file_by_id_and_user_id=find)  # type: ignore[attr-defined]
    provider.Storage = SimpleNamespace(get_file=lambda path: path)  # type: ignore[attr-defined]
    for name in ("open_webui", "open_webui.models", "open_webui.storage"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "open_webui.models.files", files)
    monkeypatch.setitem(sys.modules, "open_webui.storage.provider", provider)
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda body, user="u": asyncio.run(module.Filter().inlet(body, {"id": user}))


def video(name: str) -> dict[str, Any]:
    data = base64.b64encode(name.encode()).decode()
    return {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}


def tag(file: str, kind: str = "video/mp4") -> str:
    return f'<file type="file" id="{file}" url="{file}" content_type="{kind}" name="x.mp4"/>\n'


def attached(*tags: str) -> str:
    return f"<attached_files>\n{''.join(tags)}</attached_files>\n\n"


def asked(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_tags_become_videos_where_they_stand(inlet: Any) -> None:
    messages = asked(f"{attached(tag('a'))}What?", "A cat.", f"{attached(tag('b'))}And here?")
    files = [{"id": name, "content_type": "video/mp4"} for name in "ab"]
    body = inlet({"messages": messages, "files": files, "metadata": {"files": files}})
    said = [message["content"] for message in body["messages"]]
    assert said[0] == [video("a"), {"type": "text", "text": "What?"}]
    assert said[1] == "A cat."
    assert said[2] == [video("b"), {"type": "text", "text": "And here?"}]
    assert body["files"] == body["metadata"]["files"] == []


def test_other_files_stay(inlet: Any) -> None:
    words = tag("t", "text/plain")
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    content = [picture, {"type": "text", "text": f"{attached(tag('a'), words)}What?"}]
    body = inlet({"messages": [{"role": "user", "content": content}]})
    text = {"type": "text", "text": f"{attached(words)}What?"}
    assert body["messages"][0]["content"] == [picture, video("a"), text]
    plain = asked(f"{attached(words)}What?")
    assert inlet({"messages": plain})["messages"] == asked(f"{attached(words)}What?")


def test_without_tags_a_video_belongs_to_the_first_message(inlet: Any) -> None:
    files = [{"id": "a", "content_type": "video/mp4"}, {"id": "t", "content_type": "text/plain"}]
    body = inlet({"messages": asked("What?", "A cat.", "Why?"), "metadata": {"files": files}})
    first = [video("a"), {"type": "text", "text": "What?"}]
    assert [m["content"] for m in body["messages"]] == [first, "A cat.", "Why?"]
    assert body["metadata"]["files"] == files[1:]


def test_files_of_others_are_not_read(inlet: Any) -> None:
    with pytest.raises(ValueError, match="no file a of this user"):
        inlet({"messages": asked(f"{attached(tag('a'))}What?")}, user="v")
