"""Time several ways of watching one video side by side, and check what they did."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from sttm.cli.progress import Tell

if TYPE_CHECKING:
    from sttm.chat import PrefilledVideo, VideoChat
    from sttm.video import Video

_ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Run:
    """One watching of the video and all questions on its prefill; seconds.

    Args:
        first: prefill, and the first question to its first token.
        following: the second question to its first token; the prefill is there already.
        process: the processor's part, before the model.
        encode: the vision tower's part, before the language model.
        answers: one per question.
        fed: prompt tokens that entered the decoder for each question.
        watched: the video in the cache.
    """

    first: float
    following: float
    process: float
    encode: float
    answers: tuple[str, ...]
    fed: tuple[int, ...]
    watched: "PrefilledVideo"


def measure(
    chats: Sequence["VideoChat"],
    video: "Video",
    questions: Sequence[str],
    repeats: int,
    tell: Tell,
) -> list[Run]:
    """Run every chat ``repeats`` times after one warm-up each, in turn, and take medians.

    Taking turns spreads whatever else the machine does over all of them.

    Args:
        chats: the ways to compare.
        video: the sampled frames.
        questions: at least two, asked one by one on each prefill.
        repeats: timed runs of each chat.
        tell: called about the stages of the warm-ups, then about the runs as stage "measure".

    Returns:
        for each chat its last run, with the medians of all its runs as times.
    """
    for chat in chats:
        _ask_all(chat.watch(video, progress=tell), questions)
    runs: list[list[Run]] = [[] for _ in chats]
    for repeat in range(repeats):
        tell("measure", repeat, repeats)
        for chat, done in zip(chats, runs):
            done.append(_ask_all(chat.watch(video), questions))
    tell("measure", repeats, repeats)
    return [_with_medians(done) for done in runs]


def miscounted(run: Run, questions: Sequence[str]) -> str:
    """Say where a run did not do what its plan says; empty if it did.

    Counted are the entries of the cache, layer by layer, and the tokens that were fed for each
    question.
    """
    from sttm.chat.prompt import common_length

    watched = run.watched
    whole = len(watched.ids)
    short = whole - watched.tokens_in + watched.tokens_out
    for layer, held in enumerate(watched.entries):
        merged = watched.layer is not None and layer >= watched.layer
        wanted = short if merged else whole
        if held not in (None, wanted):
            return f"layer {layer} holds {held} KV entries, expected {wanted}"
    for question, fed in zip(questions, run.fed, strict=True):
        prompt = watched.prefix.prompt_ids(watched.chat.processor, [], question)
        wanted = len(prompt) - min(common_length(watched.ids, prompt), len(prompt) - 1)
        if fed != wanted:
            return f"{fed} tokens were fed for {question!r}, expected {wanted}"
    return ""


def _ask_all(watched: "PrefilledVideo", questions: Sequence[str]) -> Run:
    answers = [watched.ask(question, max_new_tokens=_ANSWER_TOKENS) for question in questions]
    return Run(
        first=watched.timings.prefill + answers[0].ttft,
        following=answers[1].ttft,
        process=watched.timings.process,
        encode=watched.timings.encode,
        answers=tuple(answer.text for answer in answers),
        fed=tuple(answer.prompt_tokens for answer in answers),
        watched=watched,
    )


def _with_medians(runs: Sequence[Run]) -> Run:
    names = ("first", "following", "process", "encode")
    medians = {name: median(getattr(run, name) for run in runs) for name in names}
    return replace(runs[-1], **medians)
