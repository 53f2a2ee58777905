"""Turn the two forms of a request of lmms-eval into one: a video file and a question about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from sttm.errors import ConfigError, VideoError

_PASSED = (
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "length_penalty",
    "repetition_penalty",
    "no_repeat_ngram_size",
)
_SAMPLING = ("temperature", "top_p", "top_k")
_WINDOW = ("video_start", "video_end", "start_time", "end_time")


@dataclass(frozen=True)
class Request:
    """One question.

    Args:
        where: the task and document, for messages.
        video: a file.
        question: the text behind the video.
        system: system prompt; None if the task has none.
        generate: arguments of transformers' ``generate``.
        until: texts that end the answer and do not belong to it.
        unused: generation arguments of the task that mean nothing here.
    """

    where: str
    video: str
    question: str
    system: str | None = None
    generate: Mapping[str, Any] = field(default_factory=dict)
    until: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def check_file(request: Request) -> None:
    """Look for the video of a request.

    Raises:
        VideoError: there is no such file.
    """
    path = request.video
    if "://" in path:
        raise VideoError(f"got {path}, expected a file on this machine. Download it first.")
    if not Path(path).is_file():
        what = "a folder" if Path(path).is_dir() else "no such file"
        raise VideoError(
            f"got {what}: {path}, expected a video. Check HF_HOME and the data of the task."
        )


def from_visuals(
    where: str, text: str, visuals: Any, generation: Mapping[str, Any] | None
) -> Request:
    """Read a request that is a text and a list of visuals.

    Raises:
        ConfigError: not exactly one video, or an argument of another kind.
    """
    found = visuals if isinstance(visuals, list | tuple) else [visuals]
    video = _only_video(where, [item for item in found if item is not None])
    return _with_generation(Request(where, video, text), generation)


def from_messages(
    where: str, messages: Sequence[Mapping[str, Any]], generation: Mapping[str, Any] | None
) -> Request:
    """Read a request that is a list of chat messages: one user turn, perhaps a system prompt.

    Raises:
        ConfigError: not exactly one video, an argument of another kind, more turns, or text in
            front of the video.
    """
    turns = [message for message in messages if message["role"] != "system"]
    system = [_text(message["content"]) for message in messages if message["role"] == "system"]
    if len(turns) != 1 or turns[0]["role"] != "user":
        roles = ", ".join(str(message["role"]) for message in messages)
        raise ConfigError(
            f"{where}: got messages of {roles or 'nobody'}, expected one of the user, with or "
            "without a system prompt. Choose a task without examples or several rounds."
        )
    content = turns[0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    visuals = [_visual(part) for part in parts if part["type"] != "text"]
    video = _only_video(where, visuals)
    if parts[0]["type"] == "text":
        raise ConfigError(
            f"{where}: got text in front of the video, expected it behind: what stands before "
            "could not be shared by questions. Run with --force_simple, which puts it behind."
        )
    request = Request(where, video, _text(parts), "\n".join(system) or None)
    return _with_generation(request, generation)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in content if part["type"] == "text")


def _visual(part: Mapping[str, Any]) -> Any:
    """Return what the simple form would hold, so that one place checks both."""
    if part["type"] != "video":
        return dict(part)
    window = {key: part[key] for key in _WINDOW if part.get(key) is not None}
    return {"type": "video", "url": part.get("url"), **window} if window else part.get("url")


def _only_video(where: str, visuals: Sequence[Any]) -> str:
    if len(visuals) != 1:
        raise ConfigError(
            f"{where}: got {_count(visuals)}, expected one video: several, or images, or none, are "
            "not supported. Choose a task about single videos."
        )
    found = visuals[0]
    if isinstance(found, Mapping):
        window = [key for key in _WINDOW if found.get(key) is not None]
        if window:
            raise ConfigError(
                f"{where}: got a video with {' and '.join(window)}, expected a whole file. Cut it "
                "first, e.g. with ffmpeg -ss -to."
            )
        kind = found.get("type", "video")
        found = found.get("url") or found.get("path") if kind == "video" else found
    if not isinstance(found, str | PathLike):
        raise ConfigError(
            f"{where}: got {_kind(found)}, expected the path of a video file. Choose a task about "
            "videos."
        )
    return str(fspath(found))


def _count(visuals: Sequence[Any]) -> str:
    kinds = [_kind(item) for item in visuals]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) or "none"


def _kind(item: Any) -> str:
    if isinstance(item, Mapping):
        return str(item.get("type", "video"))
    return "file" if isinstance(item, str | PathLike) else type(item).__name__


def _with_generation(request: Request, given: Mapping[str, Any] | None) -> Request:
    """Split a task's generation arguments into those of ``generate``, and texts that end it."""
    rest = {key: value for key, value in (given or {}).items() if value is not None}
    until = rest.pop("until", ())
    ends = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(text, str) for text in ends):
        raise ConfigError(
            f"{request.where}: until: got {until!r}, expected a text or a list of texts."
        )
    if "max_gen_toks" in rest:
        rest.setdefault("max_new_tokens", rest.pop("max_gen_toks"))
    generate = {key: rest.pop(key) for key in _PASSED if key in rest}
    sampled = {key: rest.pop(key) for key in _SAMPLING if key in rest}
    asked = rest.pop("do_sample", False) and "temperature" not in sampled
    if asked or sampled.get("temperature", 0) > 0:
        generate |= {"do_sample": True, **sampled}
    else:
        # Cleared, so that transformers does not warn of a model's own defaults.
        generate |= {"do_sample": False, **dict.fromkeys(_SAMPLING)}
    kept = tuple(text for text in ends if text)
    return replace(request, generate=generate, until=kept, unused=tuple(sorted(rest)))
