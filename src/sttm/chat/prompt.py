"""Prompts about videos: what they all share, and what a question adds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from sttm.errors import ConfigError, UnsupportedModelError, VideoError
from sttm.video import Video, nominal_times
from sttm.video.decode import video_of_frames

_MARK = "9f3c71question"
# Near the question a tokenizer may join its first characters with the text before it.
_UNSETTLED = 4
_EVEN_SECONDS = 0.1  # times nearer than this to those of a constant rate are told as these
_TICKS = 1000  # per second of the clock on which other times are told

Part = str | None  # of a message: text, or None in the place of a video
Messages = tuple[tuple[Part, ...], ...]  # of the user and of the assistant in turn
Turn = tuple[str, str]  # a question and its answer


@dataclass(frozen=True, eq=False)
class Prefix:
    """The part that every prompt about some videos begins with.

    Args:
        system: the system prompt; None for the template's own.
        messages: up to the last video and the text behind it, e.g. subtitles, to which a question
            is added.
        before: the template's text up to the question.
        rest: the end of ``before`` that is tokenized together with the question.
        head: ``(n,)`` ids of ``before`` without ``rest``, the videos' placeholders included.
    """

    system: str | None
    messages: Messages
    before: str
    rest: str
    head: torch.Tensor

    @property
    def context(self) -> str:
        """The text between the last video and the question."""
        return self.messages[-1][-1] or ""

    @property
    def turns(self) -> list[Turn]:
        """The questions and answers in front of the last video; the words alone."""
        said = ["".join(part or "" for part in message) for message in self.messages]
        return list(zip(said[:-1:2], said[1::2], strict=True))

    def prompt_ids(self, processor: Any, history: Sequence[Turn], question: str) -> torch.Tensor:
        """Tokenize a whole prompt without reading the videos again.

        Args:
            processor: the model's processor.
            history: (question, answer) pairs behind the last video.
            question: the new question.

        Returns:
            ``(n,)`` ids, placeholders included.

        Raises:
            UnsupportedModelError: the template changes earlier text when turns are added.
            ConfigError: a text is none, or holds a placeholder of the model.
        """
        check_words("question", question, processor)
        for said in (text for turn in history for text in turn):
            check_words("an earlier message", said, processor)
        text = render(processor, self.system, self.messages, history, question)
        return torch.cat([self.head, _tokenize(processor, self.tail(text))])

    def tail(self, text: str) -> str:
        """Return what is behind ``head`` in the text of a prompt that goes on.

        Raises:
            UnsupportedModelError: the template changes earlier text.
        """
        if text.startswith(self.before):
            return self.rest + text[len(self.before) :]
        start = self.before.removesuffix(self.rest)
        if start + self.rest == self.before and text.startswith(start):
            return text[len(start) :]  # another video stands in front of the text behind this one
        raise UnsupportedModelError(
            "got a chat template whose text before the question depends on what follows, expected "
            "a fixed beginning. Ask with generate() instead of VideoChat."
        )


def opening(messages: Messages, history: Sequence[Turn], context: str) -> Messages:
    """Return the messages in which a video follows on what was shown and said before.

    Args:
        messages: up to an earlier video, see `Prefix`; empty if there is none.
        history: the turns behind that.
        context: text behind the new video.
    """
    said = _told(messages or (("",),), history, "")
    open_message = tuple(part for part in said[-1] if part != "")
    return (*said[:-1], (*open_message, None, context))


def openings(shown: Sequence[Any], context: str = "") -> Iterator[tuple[Any, Messages]]:
    """Yield each video of a list with the messages in which it is the last one.

    Args:
        shown: videos, whatever stands for them, and the turns between them; a video at its end.
        context: text behind the last video.
    """
    messages: Messages = ()
    turns: list[Turn] = []
    for place, step in enumerate(shown, 1):
        if isinstance(step, tuple):
            turns.append(step)
            continue
        messages = opening(messages, turns, context if place == len(shown) else "")
        turns = []
        yield step, messages


def render(
    processor: Any,
    system: str | None,
    messages: Messages,
    history: Sequence[Turn],
    question: str,
) -> str:
    """Render a conversation about videos with the processor's chat template.

    Args:
        processor: the model's processor.
        system: the system prompt; None for the template's own.
        messages: see `Prefix`.
        history: the turns behind them.
        question: the new question.
    """
    told: list[dict[str, Any]] = []
    if system is not None:
        told.append({"role": "system", "content": [{"type": "text", "text": system}]})
    for role, parts in zip(cycle(("user", "assistant")), _told(messages, history, question)):
        content = [{"type": "video"} if p is None else {"type": "text", "text": p} for p in parts]
        told.append({"role": role, "content": content})
    text = processor.apply_chat_template(told, add_generation_prompt=True, tokenize=False)
    return str(text[0] if isinstance(text, list) else text)


def _told(messages: Messages, history: Sequence[Turn], question: str) -> Messages:
    """Add turns and a question to messages, the first question to the last message's text."""
    asked = [*(q for q, _ in history), question]
    first = (*messages[-1][:-1], (messages[-1][-1] or "") + asked[0])
    turns = zip((answer for _, answer in history), asked[1:], strict=True)
    return (*messages[:-1], first, *((text,) for turn in turns for text in turn))


def open_prompt(
    processor: Any,
    video: Video | None,
    system: str | None,
    messages: Messages,
    behind: Prefix | None = None,
    *,
    resize: bool = True,
) -> tuple[Prefix, dict[str, torch.Tensor]]:
    """Process a video and find what all prompts about it share.

    Args:
        processor: the model's processor.
        video: its sampled frames; None for a conversation without one.
        system: system prompt, or None.
        messages: see `Prefix`; they hold the video, and those in front of it.
        behind: the prefix of what holds the videos in front of it; None if there are none.
        resize: let the processor scale the frames.

    Returns:
        the prefix, and the model's inputs ``(1, m)`` up to the question or just before it, from
        the end of ``behind.head`` on.

    Raises:
        ConfigError: a text is none, or holds a placeholder of the model.
        VideoError: the processor does not take the video.
        UnsupportedModelError: see `Prefix.tail`.
    """
    if system is not None:
        check_words("system", system, processor)
    check_messages(messages, processor)
    text = render(processor, system, messages, (), _MARK)
    before, _, after = text.rpartition(_MARK)  # what was said may hold the mark, too
    new = text if behind is None else behind.tail(text)
    inputs = _process(processor, new, video, is_whole=behind is None, resize=resize)
    ids = inputs["input_ids"][0]
    tokenizer = processor.tokenizer
    special = torch.tensor(sorted(tokenizer.added_tokens_decoder))
    closing = int(torch.isin(_tokenize(processor, _MARK + after), special).sum())
    places = torch.isin(ids, special).nonzero().squeeze(1)
    # Special tokens are never joined with their neighbours: a safe place to cut.
    end = int(places[-1 - closing]) + 1 if len(places) > closing else 0
    rest = _decode(tokenizer, ids[end:]).rpartition(_MARK)[0]
    # A processor may write text of its own behind the video, which the template does not have.
    exact = torch.equal(_tokenize(processor, rest + _MARK + after), ids[end:])
    if not exact and not before.endswith(rest):
        raise UnsupportedModelError(
            f"got {rest!r} between the video and the question, expected the template's text "
            f"{before[-len(rest) - 20 :]!r}. Ask with generate() instead of VideoChat."
        )
    settled = max(end, end + len(_tokenize(processor, rest)) - _UNSETTLED, 1)
    shortened = {name: part_of(value, len(ids), end=settled) for name, value in inputs.items()}
    tensors = {name: v for name, v in shortened.items() if isinstance(v, torch.Tensor)}
    head = ids[:end].clone() if behind is None else torch.cat([behind.head, ids[:end]])
    return Prefix(system, messages, before, rest, head), tensors


def _process(
    processor: Any, text: str, video: Video | None, *, is_whole: bool, resize: bool
) -> Mapping[str, Any]:
    """Let the processor make the model's inputs of a text and the video in it.

    Args:
        processor: the model's processor.
        text: a prompt, or the end of one.
        video: its sampled frames, if there is one.
        is_whole: whether the text is a whole prompt, in front of which a token may stand.
        resize: let the processor scale the frames.

    Raises:
        VideoError: the processor does not take the video.
    """
    options: dict[str, Any] = {} if is_whole else {"add_special_tokens": False}
    if video is None:
        made: Mapping[str, Any] = processor(text=[text], return_tensors="pt", **options)
        return made
    shown = _long_enough(processor, video)
    options |= {} if resize else {"do_resize": False}
    frames: Any = shown.frames
    if isinstance(frames, torch.Tensor):  # on the meta device, see `shape_only`
        frames = frames.movedim(-1, 1)
    try:
        made = processor(
            text=[text],
            videos=[[frames]],  # of each text; some processors take nothing flatter
            video_metadata=[[_metadata(shown)]],
            do_sample_frames=False,
            return_tensors="pt",
            **options,
        )
    except Exception as error:  # whatever it is, it is about this video: the prompt is sound
        raise VideoError(
            f"{video.path or 'the frames'}: {type(processor).__name__} does not take "
            f"{len(shown)} frames of {shown.frames.shape[2]}x{shown.frames.shape[1]} pixels "
            f"({type(error).__name__}: {error}). Expected a video that it can process; crop, "
            "convert or sample it otherwise."
        ) from error
    return made


def check_words(name: str, text: object, processor: Any) -> None:
    """Refuse text for a prompt that is none, or that the processor would take for a video.

    Args:
        name: what the text is, for the message.
        text: what was given.
        processor: the model's.

    Raises:
        ConfigError: no text, or one that no tokenizer can encode, or a placeholder in it.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{name}: got {type(text).__name__}, expected text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{name}: got {text[error.start]!a} at character {error.start}, half of a surrogate "
            "pair, expected text. Read it with the right encoding."
        ) from error
    marks = {v for n, v in vars(processor).items() if n.endswith("_token") and isinstance(v, str)}
    found = [mark for mark in sorted(marks) if mark and mark in text]
    if found:
        raise ConfigError(
            f"{name}: got {found[0]!r} in the text, a word that {type(processor).__name__} puts in "
            "the place of pictures, expected text without it. Write it otherwise."
        )


def check_messages(messages: Messages, processor: Any) -> None:
    """Refuse messages that `check_words` refuses: the last text is called the context.

    Raises:
        ConfigError: see there.
    """
    check_words("context", messages[-1][-1], processor)
    for said in (part for message in messages for part in message if part is not None):
        check_words("an earlier message", said, processor)


def frames_per_step(processor: Any) -> int:
    """Return how many frames a token is of."""
    # Absent where it is one.
    return int(getattr(processor.video_processor, "temporal_patch_size", 1))


def shape_only(video: Video, count: int | None = None) -> Video:
    """Return a video of as large frames without pixels: processors tell what would become of it.

    Args:
        video: some frames.
        count: of frames, where it is another one; then times are no longer right.

    Returns:
        one whose frames are a tensor on the meta device, which takes no memory.
    """
    shape = (len(video) if count is None else count, *video.frames.shape[1:])
    if count is not None:
        video = video_of_frames(np.broadcast_to(np.uint8(0), shape), video.sampling)
    frames: Any = torch.empty(shape, dtype=torch.uint8, device="meta")
    return replace(video, frames=frames)


def _long_enough(processor: Any, video: Video) -> Video:
    """Repeat the last frame if a video is shorter than what one token holds."""
    missing = frames_per_step(processor) - len(video)
    if missing <= 0:
        return video
    return replace(
        video,
        frames=np.concatenate([video.frames, *[video.frames[-1:]] * missing]),
        timestamps=video.timestamps + video.timestamps[-1:] * missing,
        indices=video.indices + video.indices[-1:] * missing,
    )


def time_instruction(video: Video) -> str:
    """Tell a model when its frames are, in the words that LLaVA-Video was trained with.

    Source: LLaVA-Video, ``get_video_frames`` and its prompt. Differs: the published times are
        frame numbers over the average rate. They are kept for constant rates; where the rate
        varies, or sound comes before the picture, they are wrong by seconds, and the file's own
        are told, which questions are about.
    """
    if _is_even(video):
        seconds, times = video.total_frames / video.fps, nominal_times(video.indices, video.fps)
    else:
        seconds, times = video.timestamps[0] + video.duration, video.timestamps
    listed = ",".join(f"{time:.2f}s" for time in times)
    return (
        f"The video lasts for {seconds:.2f} seconds, and {len(video)} "
        f"frames are uniformly sampled from it. These frames are located at {listed}. "
        "Please answer the following questions related to this video.\n"
    )


def common_length(a: torch.Tensor, b: torch.Tensor) -> int:
    """Count the leading ids that two prompts share."""
    size = min(len(a), len(b))
    different = (a[:size] != b[:size]).nonzero()
    return int(different[0]) if len(different) else size


def model_inputs(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Move a processor's tensors to the model, floating ones in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in tensors.items()
    }


def part_of(value: Any, length: int, start: int = 0, end: int | None = None) -> Any:
    """Return a part of an input of the model if it has one value per token, else all of it.

    Args:
        value: of a processor, for one prompt of ``length`` tokens.
        length: tokens.
        start: first token of the part.
        end: first token behind the part; None for all that follow.
    """
    per_token = isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape[1] == length
    return value[:, start:end] if per_token else value


def _is_even(video: Video) -> bool:
    """Tell whether frame numbers over the rate are the frames' times, as in most files."""
    nominal = nominal_times(video.indices, video.fps)
    pairs = zip(video.timestamps, nominal, strict=True)
    return all(abs(time - even) < _EVEN_SECONDS for time, even in pairs)


def _metadata(video: Video) -> VideoMetadata:
    """Say when the frames are: processors divide frame numbers by the rate.

    Where that would be wrong, the frames are numbered by milliseconds instead, so that the
    quotient is right. Only the rate of the sample, which is an average, stays the same.
    """
    height, width = video.frames.shape[1:3]
    if not _is_even(video):
        return VideoMetadata(
            total_num_frames=max(1, round(video.duration * _TICKS)),
            fps=float(_TICKS),
            width=width,
            height=height,
            duration=video.timestamps[0] + video.duration,
            frames_indices=[round(time * _TICKS) for time in video.timestamps],
        )
    return VideoMetadata(
        total_num_frames=video.total_frames,
        fps=video.fps,
        width=width,
        height=height,
        duration=video.duration,
        frames_indices=list(video.indices),
    )


def sampled_rate(video: Video) -> float:
    """Return how many frames per second processors take a video to have."""
    return float(_metadata(video).sampled_fps)


def _tokenize(processor: Any, text: str) -> torch.Tensor:
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def _decode(tokenizer: Any, ids: torch.Tensor) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)
