"""``sttm demo``: the whole path on a made clip, with all tokens and with merged ones."""

import platform
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import sttm
from sttm.cli.decoding import Decoded, decode
from sttm.cli.loading import Loaded, load_nano
from sttm.cli.options import (
    JsonOption,
    KeepOption,
    MaxTokensOption,
    MethodOption,
    OutOption,
    ThresholdsOption,
)
from sttm.cli.output import milliseconds, note, percent, say, show_error, show_json, show_table
from sttm.cli.pictures import MergedVideo, write_pictures
from sttm.cli.progress import Tell, progress_bars
from sttm.cli.reduction import Reduction, Wanted, describe_method, parse_reduction
from sttm.cli.side_by_side import Run, measure, miscounted
from sttm.errors import (
    ConfigError,
    IncompatibleTransformersError,
    SttmError,
    UnreducedVideoError,
)
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.nano.clips import Clip
    from sttm.nano.questions import Question

# Clips from here on are in no training, report or test of nano; the first one is the default.
FIRST_SEED = 40_000_000
MOST_REPEATS = 100_000
TASKS = ("digit", "colour", "quadrant")
TRAINED_FRAMES = 32
MOST_FRAMES = 64  # the longest clips that nano has seen
EXIT_MISCOUNTED = 1
_MISCOUNTED = (
    "{}. What was measured is not what the plan says: do not trust it, and report this with the "
    "versions above."
)


@dataclass(frozen=True)
class Checked:
    """One question about the clip, the right answer, and the two that were given."""

    question: str
    expected: str
    answer_full: str
    answer_merged: str


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What ``sttm demo --json`` prints; times in seconds, medians over ``repeats``.

    Args:
        clip_seed: for ``sttm.nano.clips.make_clip``.
        ttft_full_s: prefill and first question to its first token, with all tokens.
        ttft_merged_s: the same with merged tokens, merging included.
        ttft_next_question_s: a further question on the merged prefill, to its first token.
        ttft_next_question_full_s: the same with all tokens.
        entries_full, entries_merged: KV entries that each decoder layer holds of the prefill.
        fed_full, fed_merged: tokens that entered the decoder for each question.
        miscounted: where these counts are not what the plan says; empty if they are.
        decode_s, process_s, encode_s: decoding (once), processor and vision tower: the same for
            both ways, and not in the TTFT.
    """

    model: str
    method: str
    layer: int | None
    seed: int
    clip_seed: int
    frames: int
    tokens_in: int
    tokens_out: int
    retention: float
    ttft_full_s: float
    ttft_merged_s: float
    ttft_next_question_s: float
    ttft_next_question_full_s: float
    entries_full: list[int | None]
    entries_merged: list[int | None]
    fed_full: list[int]
    fed_merged: list[int]
    miscounted: str = ""
    decode_s: float
    process_s: float
    encode_s: float
    repeats: int
    threads: int
    versions: dict[str, str]
    tested: list[str]
    questions: list[Checked] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    """What the demo is asked to do."""

    reduction: Reduction
    seed: int
    frames: int
    repeats: int
    out: Path


def demo(
    frames: Annotated[int, typer.Option(min=2, max=MOST_FRAMES, help="Length of the clip.")] = 32,
    seed: Annotated[
        int, typer.Option(min=0, help="Which clip of the demo's series; 0 is the first.")
    ] = 0,
    keep: KeepOption = None,
    thresholds: ThresholdsOption = None,
    max_tokens: MaxTokensOption = None,
    method: MethodOption = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=MOST_REPEATS, help="Timed runs of each kind.")
    ] = 7,
    out: OutOption = Path("out"),
    json: JsonOption = False,
) -> None:
    """Make a clip, let nano watch it with all tokens and with merged ones, and compare.

    Writes demo.mp4 (the clip, H.264) and demo.png (its merged cells).
    """
    reduction = parse_reduction(Wanted(keep, thresholds, max_tokens, method), model=None)
    if reduction.method is None:
        raise ConfigError(
            "got --keep 1 or --thresholds none, which merge nothing, expected a setting that "
            "does: the demo compares with all tokens anyway."
        )
    if frames > TRAINED_FRAMES:
        note(f"nano was trained on at most {TRAINED_FRAMES} frames; beyond, it answers worse.")
    make_folder(out)
    loaded = load_nano()
    try:
        with progress_bars(quiet=json) as tell:
            result = _run(loaded, _Task(reduction, seed, frames, repeats, out), tell)
    except (IncompatibleTransformersError, UnreducedVideoError) as error:
        show_error(error)
        raise typer.Exit(EXIT_MISCOUNTED) from error
    if json:
        show_json(result)
    else:
        _show(result)
    if result.miscounted:
        show_error(SttmError(_MISCOUNTED.format(result.miscounted)))
        raise typer.Exit(EXIT_MISCOUNTED)


def _run(loaded: Loaded, task: _Task, tell: Tell) -> DemoResult:
    from sttm.nano.clips import make_clip, write_clip

    clip = make_clip(FIRST_SEED + task.seed, task.frames)
    questions = _three_questions(clip)
    path = task.out / "demo.mp4"
    write_clip(clip, path)
    decoded = decode(path, clip.fps, task.frames, tell)
    chats = loaded.chat(Reduction(None)), loaded.chat(task.reduction)
    texts = [question.text for question in questions]
    full, merged = measure(chats, decoded.video, texts, task.repeats, tell)
    report = merged.watched.reports[0]
    picture = MergedVideo(
        frames=decoded.video.frames,
        timestamps=decoded.video.timestamps,
        plan=report.plan,
        grid=report.grid,
        title=f"nano, clip {clip.seed}, {describe_method(task.reduction.method)}",
        note="",
    )
    files = [path, *write_pictures(picture, task.out / "demo", ["png"], tell)]
    checked = [
        Checked(q.text, q.answer, before, after)
        for q, before, after in zip(questions, full.answers, merged.answers)
    ]
    return replace(
        _result(loaded, task, decoded, full, merged),
        miscounted=next(filter(None, (miscounted(run, texts) for run in (full, merged))), ""),
        questions=checked,
        files=[str(file) for file in files],
    )


def _three_questions(clip: "Clip") -> list["Question"]:
    """Choose one question of each kind, about different needles where there are several.

    So that no question gives away the answer to another one.
    """
    from sttm.nano.questions import make_questions

    every = make_questions(clip, clip.seed)
    chosen = []
    for place, task in enumerate(TASKS):
        of_this_kind = [question for question in every if question.task == task]
        chosen.append(of_this_kind[place % len(clip.needles)])
    return chosen


def _result(loaded: Loaded, task: _Task, decoded: Decoded, full: Run, merged: Run) -> DemoResult:
    import torch

    from sttm.models.versions import tested_versions

    return DemoResult(
        model=loaded.name,
        method=describe_method(task.reduction.method),
        layer=merged.watched.layer,
        seed=task.seed,
        clip_seed=FIRST_SEED + task.seed,
        frames=len(decoded.video),
        tokens_in=merged.watched.tokens_in,
        tokens_out=merged.watched.tokens_out,
        retention=merged.watched.retention,
        ttft_full_s=full.first,
        ttft_merged_s=merged.first,
        ttft_next_question_s=merged.following,
        ttft_next_question_full_s=full.following,
        entries_full=list(full.watched.entries),
        entries_merged=list(merged.watched.entries),
        fed_full=list(full.fed),
        fed_merged=list(merged.fed),
        decode_s=decoded.seconds,
        process_s=merged.process,
        encode_s=merged.encode,
        repeats=task.repeats,
        threads=torch.get_num_threads(),
        versions={
            "sttm": sttm.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
        tested=list(tested_versions()),
    )


def _show(result: DemoResult) -> None:
    say(
        f"{result.model}, clip {result.clip_seed} of {result.frames} frames, "
        f"{result.method}, before layer {result.layer}"
    )
    first = ("TTFT", result.ttft_full_s, result.ttft_merged_s)
    later = ("TTFT, next question", result.ttft_next_question_full_s, result.ttft_next_question_s)
    share = f"{result.tokens_out} ({percent(result.retention)})"
    fewer = f"{result.tokens_in / result.tokens_out:.1f}x fewer"
    rows = [
        ("video tokens", result.tokens_in, share, fewer),
        _entries(result),
        ("tokens fed per question", _listed(result.fed_full), _listed(result.fed_merged), ""),
        _timing(*first),
        _timing(*later),
    ]
    show_table(("", "all tokens", "merged", ""), rows)
    names = {"the merged prefill": first, "a question on it": later}
    slower = [name for name, (_, full, merged) in names.items() if merged > full]
    if slower:
        say(
            f"This time {' and '.join(slower)} took longer than with all tokens. The counts above "
            "are right, so the machine was busy, or the clip is too short to tell: run it again "
            "with nothing else running."
        )
    answers = [(q.question, q.expected, q.answer_full, q.answer_merged) for q in result.questions]
    show_table(("question", "expected", "all tokens", "merged"), answers)
    _show_conditions(result)


def _show_conditions(result: DemoResult) -> None:
    say(
        "TTFT: prefill and first question to the first token; median of "
        f"{result.repeats} after a warm-up, both ways in turn."
    )
    say(
        f"Not in it: decode {milliseconds(result.decode_s)}, "
        f"processor {milliseconds(result.process_s)}, "
        f"vision tower {milliseconds(result.encode_s)}."
    )
    say(f"sttm was tested with transformers {', '.join(result.tested)}.")
    software = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    say(f"{platform.machine()}, {threads}, {software}.")
    say("nano is tiny: the speed-up grows with the model and with the length of the video.")
    for file in result.files:
        say(f"wrote {file}")


def _entries(result: DemoResult) -> tuple[str, str, str, str]:
    full = sum(held or 0 for held in result.entries_full)
    merged = sum(held or 0 for held in result.entries_merged)
    layers = f"KV entries in {len(result.entries_full)} layers"
    return layers, str(full), str(merged), f"{full / merged:.1f}x fewer"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _timing(name: str, full: float, merged: float) -> tuple[str, str, str, str]:
    ratio = max(full / merged, merged / full)
    gain = (
        f"{ratio:.1f}x {'faster' if merged < full else 'slower'}" if ratio >= 1.05 else "the same"
    )
    return name, milliseconds(full), milliseconds(merged), gain
