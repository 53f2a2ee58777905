"""
title: Videos for sttm serve
description: Sends attached videos on to the model. Open WebUI by itself tells it their names only.
version: 1.0
requirements:
"""

# A function of Open WebUI (Admin Panel, Functions, "+"), to be switched on for the models of
# `sttm serve`. It runs inside Open WebUI, which brings what it imports. See docs/front-ends.md.

import asyncio
import base64
import re
from pathlib import Path
from typing import Any

from open_webui.models.files import Files  # type: ignore[import-not-found]
from open_webui.storage.provider import Storage  # type: ignore[import-not-found]

_FILES = re.compile(r"<attached_files>\n(.*?)</attached_files>\n*", re.DOTALL)
_VIDEO = re.compile(r'<file (?=[^>]*content_type="video/)[^>]*?\bid="([^"]+)"[^>]*/>\n?')


class Filter:
    """Puts a ``video_url`` part in the place of every attached video."""

    async def inlet(self, body: dict[str, Any], __user__: dict[str, Any]) -> dict[str, Any]:
        """Rewrite a request in front of the model.

        Args:
            body: in OpenAI's form, with Open WebUI's ``files`` beside the messages.
            __user__: who asks; other users' files are not read.
        """
        asked = [message for message in body["messages"] if message["role"] == "user"]
        seen: set[str] = set()
        for message in asked:
            ids, rest = _take_videos(_text(message))
            seen.update(ids)
            await _show(message, ids, rest, __user__["id"])
        others = _take_listed(body) | _take_listed(body.get("metadata") or {})
        if asked and others - seen:  # without tools Open WebUI does not say which message had them
            await _show(asked[0], sorted(others - seen), _text(asked[0]), __user__["id"])
        return body


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _take_videos(text: str) -> tuple[list[str], str]:
    """Return the ids of videos in Open WebUI's tags, and the text without them."""
    listed = "".join(_FILES.findall(text))
    ids, others = _VIDEO.findall(listed), _VIDEO.sub("", listed)
    tags = f"<attached_files>\n{others}</attached_files>\n\n" if others.strip() else ""
    return ids, (tags + _FILES.sub("", text) if ids else text)


def _take_listed(owner: dict[str, Any]) -> set[str]:
    """Take videos out of a list of files, so that Open WebUI does not search them for words."""
    files = owner.get("files") or []
    videos = [f for f in files if str(f.get("content_type") or "").startswith("video/")]
    if videos:
        owner["files"] = [file for file in files if file not in videos]
    return {str(video["id"]) for video in videos}


async def _show(message: dict[str, Any], ids: list[str], text: str, user: str) -> None:
    if not ids:
        return
    content = message["content"]
    parts = [] if isinstance(content, str) else [p for p in content if p["type"] != "text"]
    for each in ids:
        file = await Files.get_file_by_id_and_user_id(each, user)
        if file is None:
            raise ValueError(f"got no file {each} of this user, expected the attached video.")
        content = await asyncio.to_thread(Path(Storage.get_file(file.path)).read_bytes)
        data = base64.b64encode(content).decode()
        parts.append({"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}})
    message["content"] = [*parts, {"type": "text", "text": text}]
