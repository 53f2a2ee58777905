"""``sttm ask --stream``: questions about a video while it comes."""

import re
import select
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sttm.budget import read_keep
from sttm.cli.command import refuse_idle
from sttm.cli.output import note, noted_warnings, percent, say, show_json
from sttm.cli.reduction import Reduction, Wanted, describe_method
from sttm.errors import ConfigError, VideoError

if TYPE_CHECKING:
    from sttm.chat import VideoStream
    from sttm.cli.loading import Loaded
    from sttm.video.live import LiveFrame, LiveVideo

# What --stream takes away, and what means nothing without it.
_OF_FILES = ("full", "max_frames", "subtitles", "conversation", "store", "store_dtype")
OF_STREAMS = ("at", "window", "timeout")
# At the published thresholds nano keeps 1 %, see docs/streaming.md.
NANO_THRESHOLDS = "0.99/0.94"
STDIN = "-"
_BATCH = 16  # frames of a file that are encoded together; a live source's come one by one
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class StreamOptions:
    """How to read a stream, and when to ask.

    Args:
        source: see `sttm.video.live.LiveVideo`.
        fps: frames to sample per second.
        window: see `sttm.StreamingSTTM`.
        timeout: seconds without data after which the source has stalled.
        at: seconds of video, ascending.
    """

    source: str
    fps: float
    window: int
    timeout: float
    at: list[float]


@dataclass(frozen=True)
class AskedLive:
    """One question to a stream and what it cost.

    Args:
        at: seconds of video that the answer is about.
        question: in words.
        answer: in words.
        tokens: prompt tokens that this question paid for.
        ttft_s: seconds from the question to its first token.
        video_tokens: merged tokens that the answer is about.
    """

    at: float
    question: str
    answer: str
    tokens: int
    ttft_s: float
    video_tokens: int


@dataclass(frozen=True)
class StreamResult:
    """What ``sttm ask --stream --json`` prints; times in seconds.

    Args:
        notes: what was odd about the source, e.g. that it stalled.
    """

    video: str
    model: str
    method: str
    layer: int
    frames: int
    seconds: float
    tokens_in: int
    tokens_out: int
    window: int
    notes: list[str]
    questions: list[AskedLive]


def wanted_of_stream(context: typer.Context, wanted: Wanted, model: str | None) -> Wanted:
    """Check the options of a stream, and fill in nano's thresholds.

    A budget is a cap here, since it is not known how long the stream will be.

    Raises:
        ConfigError: one of them is about files, or needs the whole video.
    """
    why = (
        "a stream is merged while it comes, by --thresholds, and --keep N caps it; "
        "questions come one by one"
    )
    refuse_idle(context, _OF_FILES, "--stream", why)
    if wanted.keep is not None:
        if wanted.max_tokens is not None:
            raise ConfigError(
                "got --keep and --max-tokens with --stream, expected one of them: both cap it."
            )
        if not isinstance(read_keep(wanted.keep, "--keep"), int):
            raise ConfigError(
                f"--keep: got {wanted.keep} with --stream, expected a count such as 4096, for at "
                "most so many tokens: a share of a stream is not known before it ends."
            )
        wanted = replace(wanted, keep=None, max_tokens=wanted.keep)
    if model is None and wanted.thresholds is None and wanted.method is None:
        return replace(wanted, thresholds=NANO_THRESHOLDS)
    return wanted


def parse_time(text: str) -> float:
    """Read ``SS``, ``MM:SS`` or ``HH:MM:SS`` as seconds.

    Raises:
        ConfigError: it is none of these.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ConfigError(f"--at: got {text!r}, expected a time such as 90, 01:30 or 1:01:30.")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def run_stream(
    options: StreamOptions,
    questions: list[str],
    loaded: "Loaded",
    reduction: Reduction,
    max_new_tokens: int,
    *,
    save: Path | None,
    json: bool,
) -> None:
    """Watch a stream to its end, and print every answer as it comes.

    Args:
        options: the source, and when to ask.
        questions: what to ask.
        loaded: the model.
        reduction: thresholds.
        max_new_tokens: of an answer.
        save: where the watched video goes in the end; None: nowhere.
        json: print one object in the end, and nothing before.

    Raises:
        VideoError: the source gave no frame.
    """
    from sttm.evaluation.trouble import naming
    from sttm.video.live import LiveVideo

    live = LiveVideo(options.source, fps=options.fps, timeout=options.timeout)
    chat, asked = loaded.chat(reduction), list[AskedLive]()
    stream = chat.stream(fps=options.fps, window=options.window)
    if chat.layer and getattr(chat.method, "max_tokens", None):
        note(
            f"the cap holds from layer {chat.layer} on; the layers in front of it keep an entry "
            "for every token, so that memory grows with the stream. With --layer 0 it does not."
        )
    with naming(live.name), noted_warnings():
        for each in answers(live, stream, questions, options.at, max_new_tokens):
            asked.append(each)
            if not json:
                minutes, seconds = divmod(int(each.at), 60)
                say(f"[{minutes:02}:{seconds:02}] {each.question} {each.answer}")
    for text in live.notes:
        note(text)
    watched = stream.watched()
    if save is not None:
        watched.save(save)
    result = StreamResult(
        video=live.name,
        model=loaded.name,
        method=describe_method(reduction.method),
        layer=watched.layer or 0,
        frames=len(stream),
        seconds=watched.source.timestamps[-1],
        tokens_in=watched.tokens_in,
        tokens_out=watched.tokens_out,
        window=options.window,
        notes=live.notes,
        questions=asked,
    )
    if json:
        show_json(result)
        return
    say(
        f"{result.frames} frames in {result.seconds:.1f} s, {result.tokens_in} -> "
        f"{result.tokens_out} tokens ({percent(watched.retention)}), {result.method}, before layer "
        f"{result.layer}, model {result.model}"
    )


def answers(
    live: "LiveVideo",
    stream: "VideoStream",
    questions: Sequence[str],
    at: Sequence[float],
    max_new_tokens: int,
) -> Iterator[AskedLive]:
    """Push a source's frames, and ask at the chosen times, at the end, and what is typed.

    A source that stalls or breaks off has ended, with a note; what it sent can be asked about.

    Args:
        live: the source.
        stream: without frames yet.
        questions: asked at every time, and at the end if there is no time or one is left.
        at: seconds, ascending.
        max_new_tokens: of an answer.

    Raises:
        VideoError: the source gave no frame.
    """
    import numpy as np

    waiting, held, seconds = list(at), list["LiveFrame"](), 0.0

    def push() -> None:
        if held:
            stream.push(np.stack([frame.image for frame in held]), [f.seconds for f in held])
            held.clear()

    def ask(asked: Sequence[str], moment: float) -> Iterator[AskedLive]:
        push()
        for question in asked:
            answer = stream.ask(question, max_new_tokens=max_new_tokens)
            costs = answer.prompt_tokens, answer.ttft, stream.tokens_out
            yield AskedLive(moment, question, answer.text, *costs)

    try:
        for frame in live:
            while waiting and waiting[0] < frame.seconds:
                yield from ask(questions, waiting.pop(0))
            held.append(frame)
            seconds = frame.seconds
            typed = _typed(live)
            if typed or live.is_live or len(held) == _BATCH:
                yield from ask(typed, seconds)
    except VideoError as error:
        push()
        if not len(stream):
            raise
        live.notes.append(f"{error} The answers are about the {len(stream)} frames that came.")
    yield from ask(questions if waiting or not at else (), seconds)


def _typed(live: "LiveVideo") -> list[str]:
    """Return the question that was typed meanwhile, if any."""
    if live.name == STDIN or not sys.stdin.isatty() or not select.select([sys.stdin], [], [], 0)[0]:
        return []
    question = sys.stdin.readline().strip()
    return [question] if question else []
