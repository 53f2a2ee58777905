"""Prompts about one video: what they all share, and what a question adds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from sttm.errors import ConfigError, UnsupportedModelError, VideoError
from sttm.video import Video, nominal_times

_MARK = "9f3c71question"
# Near the question a tokenizer may join its first characters with the text before it.
_UNSETTLED = 4
_EVEN_SECONDS = 0.1  # times nearer than this to those of a constant rate are told as these
_TICKS = 1000  # per second of the clock on which other times are told

Message = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Prefix:
    """The part that every prompt about one video begins with.

    Args:
        system: the system prompt; None for the template's own.
        context: text between the video and the question, e.g. subtitles.
        before: the template's text up to the question.
        rest: the end of ``before`` that is tokenized together with the question.
        head: ``(n,)`` ids of ``before`` without ``rest``, the video's placeholders included.
    """

    system: str | None
    context: str
    before: str
    rest: str
    head: torch.Tensor

    def prompt_ids(
        self, processor: Any, history: Sequence[tuple[str, str]], question: str
    ) -> torch.Tensor:
        """Tokenize a whole prompt without reading the video again.

        Args:
            processor: the model's processor.
            history: earlier (question, answer) pairs.
            question: the new question.

        Returns:
            ``(n,)`` ids, placeholders included.

        Raises:
            UnsupportedModelError: the template changes earlier text when turns are added.
            ConfigError: the question is no text, or holds a placeholder of the model.
        """
        check_words("question", question, processor)
        text = render(processor, self.system, self.context, history, question)
        if not text.startswith(self.before):
            raise UnsupportedModelError(
                "got a chat template whose text before the question depends on the question, "
                "expected a fixed beginning. Ask with generate() instead of VideoChat."
            )
        tail = self.rest + text[len(self.before) :]
        return torch.cat([self.head, _tokenize(processor, tail)])


def render(
    processor: Any,
    system: str | None,
    context: str,
    history: Sequence[tuple[str, str]],
    question: str,
) -> str:
    """Render a conversation about a video with the processor's chat template."""
    asked = [question] if not history else [history[0][0]]
    content = [{"type": "video"}, {"type": "text", "text": context + asked[0]}]
    messages: list[Message] = [{"role": "user", "content": content}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    turns = [answer for _, answer in history], [*(q for q, _ in history[1:]), question]
    for answer, following in zip(*turns):
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        messages.append({"role": "user", "content": [{"type": "text", "text": following}]})
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return str(text[0] if isinstance(text, list) else text)


def open_prompt(
    processor: Any, video: Video, system: str | None, context: str
) -> tuple[Prefix, dict[str, torch.Tensor]]:
    """Process a video and find what all prompts about it share.

    Args:
        processor: the model's processor.
        video: its sampled frames.
        system: system prompt, or None.
        context: text between video and question.

    Returns:
        the prefix, and the model's inputs ``(1, m)`` up to the question or just before it.

    Raises:
        ConfigError: context or system prompt are no text, or hold a placeholder of the model.
        VideoError: the processor does not take the video.
    """
    check_words("context", context, processor)
    if system is not None:
        check_words("system", system, processor)
    text = render(processor, system, context, [], _MARK)
    before, after = text.split(_MARK)
    shown = _long_enough(processor, video)
    try:
        inputs = processor(
            text=[text],
            videos=[[shown.frames]],  # of each text; some processors take nothing flatter
            video_metadata=[[_metadata(shown)]],
            do_sample_frames=False,
            return_tensors="pt",
        )
    except Exception as error:  # whatever it is, it is about this video: the prompt is sound
        raise VideoError(
            f"{video.path or 'the frames'}: {type(processor).__name__} does not take "
            f"{len(shown)} frames of {shown.frames.shape[2]}x{shown.frames.shape[1]} pixels "
            f"({type(error).__name__}: {error}). Expected a video that it can process; crop, "
            "convert or sample it otherwise."
        ) from error
    ids = inputs["input_ids"][0]
    tokenizer = processor.tokenizer
    special = torch.tensor(sorted(tokenizer.added_tokens_decoder))
    closing = int(torch.isin(_tokenize(processor, _MARK + after), special).sum())
    places = torch.isin(ids, special).nonzero().squeeze(1)
    # Special tokens are never joined with their neighbours: a safe place to cut.
    end = int(places[-1 - closing]) + 1
    rest = _decode(tokenizer, ids[end:]).split(_MARK)[0]
    # A processor may write text of its own behind the video, which the template does not have.
    exact = torch.equal(_tokenize(processor, rest + _MARK + after), ids[end:])
    if not exact and not before.endswith(rest):
        raise UnsupportedModelError(
            f"got {rest!r} between the video and the question, expected the template's text "
            f"{before[-len(rest) - 20 :]!r}. Ask with generate() instead of VideoChat."
        )
    settled = max(end, end + len(_tokenize(processor, rest)) - _UNSETTLED)
    shortened = {name: _shorten(value, len(ids), settled) for name, value in inputs.items()}
    tensors = {name: v for name, v in shortened.items() if isinstance(v, torch.Tensor)}
    return Prefix(system, context, before, rest, ids[:end].clone()), tensors


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


def _long_enough(processor: Any, video: Video) -> Video:
    """Repeat the last frame if a video is shorter than what one token holds."""
    # Absent where a token is of one frame.
    least = int(getattr(processor.video_processor, "temporal_patch_size", 1))
    missing = least - len(video)
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


def _tokenize(processor: Any, text: str) -> torch.Tensor:
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def _decode(tokenizer: Any, ids: torch.Tensor) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def _shorten(value: Any, length: int, end: int) -> Any:
    per_token = isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape[1] == length
    return value[:, :end] if per_token else value
