"""Requests and answers of OpenAI's chat completions, as far as a video model can serve them."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sttm.chat.prompt import Turn
from sttm.server.errors import ApiError, bad_request

_URL_SHOWN = 80  # characters of a URL that a message repeats


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Lenient(BaseModel):
    # Front ends send fields of their own; those that would change the answer are named below.
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class TextPart(_Lenient):
    """Text of a message."""

    type: Literal["text"]
    text: str


class VideoUrl(_Lenient):
    """Where a video is: a data URL, an uploaded file's id, or what the server allows."""

    url: str


class VideoPart(_Lenient):
    """A video of a message."""

    type: Literal["video_url"]
    video_url: VideoUrl


class FileReference(_Lenient):
    """An uploaded file."""

    file_id: str


class FilePart(_Lenient):
    """An uploaded video, as OpenAI's own API names files."""

    type: Literal["file"]
    file: FileReference


Part = Annotated[TextPart | VideoPart | FilePart, Field(discriminator="type")]


class Message(_Lenient):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class StreamOptions(_Lenient):
    """Options of a streamed answer."""

    include_usage: bool = False


class Reduction(_Strict):
    """How a video is to be watched; what is left out is the server's choice.

    Args:
        keep: share of its tokens, or number of tokens.
        method: name of the method that reduces it, see `sttm methods`.
        fps: frames to sample per second.
        max_frames: most frames to sample.
    """

    keep: Annotated[int, Field(ge=2)] | Annotated[float, Field(gt=0, le=1)] | None = None
    method: Annotated[str, Field(max_length=80)] | None = None
    fps: Annotated[float, Field(gt=0, le=60)] | None = None
    max_frames: Annotated[int, Field(ge=1)] | None = None


class ChatRequest(_Lenient):
    """The body of a request for a chat completion."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: int | None = None
    logprobs: bool | None = None
    tool_choice: str | dict[str, Any] | None = None
    function_call: str | dict[str, Any] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None
    sttm: Reduction = Reduction()

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    def refuse_unserved(self) -> None:
        """Refuse fields whose effect the answer would silently lack.

        Raises:
            ApiError: there is one.
        """
        unserved = {
            "n": self.n not in (None, 1),
            "logprobs": bool(self.logprobs),
            # Tools may be offered; that none is called is an answer, unless one has to be.
            "tool_choice": self.tool_choice not in (None, "none", "auto"),
            "function_call": self.function_call not in (None, "none", "auto"),
            "presence_penalty": bool(self.presence_penalty),
            "frequency_penalty": bool(self.frequency_penalty),
            "logit_bias": bool(self.logit_bias),
            "response_format": (self.response_format or {}).get("type", "text") != "text",
        }
        for name, is_wanted in unserved.items():
            if is_wanted:
                raise bad_request(
                    f"{name}: got {_shown(getattr(self, name))}, which this server does not do. "
                    "Leave it out.",
                    name,
                    "unsupported_parameter",
                )


@dataclass(frozen=True)
class Talk:
    """A conversation about videos, or in words alone.

    Args:
        system: the system prompt; None for the model's own.
        opening: up to the last video: where videos are, and the (question, answer) pairs between
            them.
        history: the pairs behind the last video.
        question: the new question.
    """

    system: str | None
    opening: tuple[str | Turn, ...]
    history: tuple[Turn, ...]
    question: str

    @property
    def urls(self) -> list[str]:
        """Where the videos are, in the order in which they are shown."""
        return [step for step in self.opening if isinstance(step, str)]

    @property
    def characters(self) -> int:
        """The length of all texts, the system prompt included."""
        turns = (turn for turn in (*self.opening, *self.history) if not isinstance(turn, str))
        said = (text for turn in turns for text in turn)
        return sum(map(len, (self.system or "", *said, self.question)))


def parse_request(body: bytes) -> ChatRequest:
    """Read the body of a request.

    Raises:
        ApiError: it is no JSON, or not what was expected.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise bad_request(
            f"{place or 'the request'}: {first['msg']}. See docs/serve.md for what is taken.",
            place or None,
        ) from error


def read_talk(messages: Sequence[Message]) -> Talk:
    """Read a conversation off its messages.

    Videos of a message stand in front of its text. One that was shown before is not shown again:
    front ends repeat them.

    Raises:
        ApiError: turns out of order, a video in a message that is not the user's, or no question.
    """
    system = [_text(m) for m in messages if m.role in ("system", "developer")]
    turns = [m for m in messages if m.role in ("user", "assistant")]
    roles = [m.role for m in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise bad_request(
            f"messages: got the roles {', '.join(roles) or 'none'}, expected user and assistant in "
            "turn, the first and the last of the user. Join messages of one role.",
            "messages",
        )
    if any(_videos(m) for m in messages if m.role != "user"):
        raise bad_request(
            "messages: got a video in a message of the system or the assistant, expected videos in "
            "those of the user.",
            "messages",
        )
    texts = [_text(m) for m in turns]
    if not texts[-1].strip():
        raise bad_request("messages: got no question, expected text in the last one.", "messages")
    pairs = [*zip(texts[:-1:2], texts[1::2], strict=True), None]
    steps: list[str | Turn] = []
    known: set[str] = set()
    for message, pair in zip(turns[::2], pairs, strict=True):
        urls = [url for url in _videos(message) if url not in known]
        known.update(urls)
        steps += [*urls] if pair is None else [*urls, pair]
    shown = max((place for place, s in enumerate(steps, 1) if isinstance(s, str)), default=0)
    history = tuple(step for step in steps[shown:] if not isinstance(step, str))
    return Talk("\n".join(system) if system else None, tuple(steps[:shown]), history, texts[-1])


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text for part in message.content if isinstance(part, TextPart))
    return message.content or ""


def _videos(message: Message) -> list[str]:
    """List the distinct videos of a message: URLs, or ids of uploaded files."""
    parts = message.content if isinstance(message.content, list) else []
    found = [
        part.video_url.url if isinstance(part, VideoPart) else part.file.file_id
        for part in parts
        if not isinstance(part, TextPart)
    ]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Usage:
    """What a request paid for.

    Args:
        prompt: tokens of the whole prompt, as the model counts them before a reduction.
        cached: of those, tokens that were in a cache before the request came.
        completion: tokens of the answer.
    """

    prompt: int
    cached: int
    completion: int

    def body(self) -> dict[str, Any]:
        """Return OpenAI's ``usage``."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Completion:
    """The envelope of one answer, whole or in pieces.

    Args:
        model: its name.
    """

    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, reason: str, usage: Usage, details: Any) -> dict[str, Any]:
        """Return a completion."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage.body(),
            "sttm": details,
        }

    def piece(
        self, delta: dict[str, Any], reason: str | None = None, details: Any = None
    ) -> dict[str, Any]:
        """Return a chunk of a streamed completion; the last one with text tells the reason."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return chunk if details is None else {**chunk, "sttm": details}

    def usage(self, usage: Usage) -> dict[str, Any]:
        """Return the chunk behind the answer, which has no choice."""
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": []}
        return {**chunk, "usage": usage.body()}


def refuse_model(asked: str, served: str) -> None:
    """Refuse a model that is not the one that the server has.

    Raises:
        ApiError: it is another one.
    """
    if asked != served:
        raise ApiError(
            404,
            f"model: got {_shown(asked)}, expected {served!r}, the only one here.",
            "model_not_found",
            param="model",
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _URL_SHOWN else f"{text[:_URL_SHOWN]}..."
