"""``sttm ask``: questions about one video, on one prefill."""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.cli.ask_stream import (
    OF_STREAMS,
    StreamOptions,
    parse_time,
    run_stream,
    wanted_of_stream,
)
from sttm.cli.command import refuse_idle
from sttm.cli.decoding import decode
from sttm.cli.loading import load_model, refuse_for_nano
from sttm.cli.options import (
    DedupeOption,
    DeviceMapOption,
    FpsOption,
    JsonOption,
    KeepOption,
    LayerOption,
    MaxFramesOption,
    MaxTokensOption,
    MethodOption,
    ModelOption,
    ReuseOption,
    ThresholdsOption,
)
from sttm.cli.output import milliseconds, noted_warnings, percent, say, show_json, show_table
from sttm.cli.progress import progress_bars
from sttm.cli.reduction import Reduction, Wanted, describe_method, parse_reduction
from sttm.errors import ConfigError
from sttm.files import check_folder

if TYPE_CHECKING:
    from sttm.chat import Conversation, PrefilledVideo, VideoStore
    from sttm.video import Video

SAVED = ".sttm"
# What says how a video is watched, and nothing of one that was watched already.
_OF_WATCHING = (
    *("keep", "thresholds", "max_tokens", "method", "full", "layer"),
    *("fps", "max_frames", "dedupe", "reuse", "subtitles", "store", "store_dtype", "piecewise"),
)
PIECE_STEPS = 16  # of a piece that is merged by itself, with --piecewise
_LEAD = "This video's subtitles are listed below:\n"


class StoreDtype(StrEnum):
    """Of keys and values in a store."""

    BFLOAT16 = "bfloat16"
    FLOAT8 = "float8"


@dataclass(frozen=True)
class Asked:
    """One question and what it cost.

    Args:
        question: in words.
        answer: in words.
        tokens: prompt tokens that this question paid for; those of the video are in the prefill.
        ttft_s: seconds from the question to its first token.
        seconds: seconds to the last token.
    """

    question: str
    answer: str
    tokens: int
    ttft_s: float
    seconds: float


@dataclass(frozen=True)
class AskResult:
    """What ``sttm ask --json`` prints; times in seconds.

    Args:
        loaded: whether the video was saved or in a store, and not watched now.
        decode_s: None for a video that was loaded.
        process_s, encode_s, prefill_s: of a video that was loaded: what was paid when it was
            watched.
        ttft_s: prefill and first question to its first token; None for a video that was loaded.
    """

    video: str
    model: str
    method: str
    layer: int | None
    frames: int
    tokens_in: int
    tokens_out: int
    retention: float
    loaded: bool
    decode_s: float | None
    process_s: float
    encode_s: float
    prefill_s: float
    ttft_s: float | None
    questions: list[Asked]


def ask(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="VIDEO",
            help="A video file, or what --save wrote (ends in .sttm); with --stream also an "
            "address such as rtsp://..., or - for standard input.",
        ),
    ],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="In words.")],
    model: ModelOption = None,
    device_map: DeviceMapOption = None,
    keep: KeepOption = None,
    thresholds: ThresholdsOption = None,
    max_tokens: MaxTokensOption = None,
    method: MethodOption = None,
    full: Annotated[bool, typer.Option("--full", help="Merge nothing: keep all tokens.")] = False,
    layer: LayerOption = None,
    fps: FpsOption = 1.0,
    max_frames: MaxFramesOption = 128,
    dedupe: DedupeOption = 0.0,
    reuse: ReuseOption = None,
    subtitles: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|auto",
            help="An .srt or .vtt file, or 'auto' for the one beside the video: what is said at "
            "the sampled frames is put between video and question.",
        ),
    ] = None,
    conversation: Annotated[
        bool, typer.Option("--conversation", help="Later questions see the earlier ones.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE.sttm", help="Store the prefilled video; ask it again later."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the prefilled video in this folder, and find it there the next time: see "
            "`sttm store`.",
        ),
    ] = None,
    store_dtype: Annotated[
        StoreDtype | None,
        typer.Option(help="Round keys and values to it in --store. Default: the model's."),
    ] = None,
    piecewise: Annotated[
        bool,
        typer.Option(
            "--piecewise",
            help="Merge and prefill the video while it is read, so that hours fit into memory; "
            "--keep is then met in two steps: see docs/streaming.md.",
        ),
    ] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", help="Merge and prefill the video while it comes: see docs/streaming.md."
        ),
    ] = False,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MM:SS", help="With --stream: ask at this time of the video. Default: its end."
        ),
    ] = None,
    window: Annotated[
        int, typer.Option(min=1, help="With --stream: most frames that a merged token spans.")
    ] = 32,
    timeout: Annotated[
        float, typer.Option(help="With --stream: seconds without data until a source has stalled.")
    ] = 10.0,
    json: JsonOption = False,
) -> None:
    """Ask questions about a video, which is decoded, encoded and prefilled only once."""
    from sttm.evaluation.trouble import naming
    from sttm.models.encoding import FrameEncoding
    from sttm.video.container import check_file
    from sttm.video.passes import survey

    wanted = Wanted(keep, thresholds, max_tokens, method, full)
    if stream:
        wanted = wanted_of_stream(context, wanted, model)
        refuse_for_nano(context, model)
        reduction = parse_reduction(wanted, model=model, layer=layer)
        _check_save(save)
        options = StreamOptions(source, fps, window, timeout, sorted(map(parse_time, at or ())))
        loaded = load_model(model, device_map)
        run_stream(options, questions, loaded, reduction, max_new_tokens, save=save, json=json)
        return
    refuse_idle(context, OF_STREAMS, "no --stream", "the whole video is watched before questions")
    video = Path(source)
    is_saved = video.suffix.lower() == SAVED
    if is_saved:
        why = "a saved video stays as it was made; watch the video again for another way"
        refuse_idle(context, _OF_WATCHING, f"{video.name}, which is saved", why)
    if full:
        refuse_idle(context, ["layer"], "--full", "all tokens are kept, in front of every layer")
    refuse_for_nano(context, model)
    reduction = parse_reduction(wanted, model=model, layer=layer)
    if piecewise:
        reduction = _in_pieces(reduction)
        no_store = "the store keeps videos that were watched as a whole"
        refuse_idle(context, ["store", "store_dtype"], "--piecewise", no_store)
    _check_save(save)
    if store is None:
        refuse_idle(context, ["store_dtype"], "no --store", "nothing is stored")
    # What may be wrong with the file shows in a moment, and loading a model takes longer.
    with progress_bars(quiet=json) as tell:
        decoded = None
        if not is_saved and subtitles is not None:  # whose times are those of the frames
            decoded = decode(video, fps, max_frames, tell)
        elif not is_saved:
            file = check_file(video, "video")
            if store is None:  # which may have it already
                survey(file)
    spoken = "" if decoded is None else _subtitle_text(subtitles, decoded.video)
    kept = None if store is None else _open_store(store, store_dtype)
    loaded = load_model(model, device_map)
    encoding = FrameEncoding(dedupe=dedupe, reuse=reuse)
    chat = loaded.chat(Reduction(None) if is_saved else reduction, encoding)
    with progress_bars(quiet=json) as tell, naming(str(video)), noted_warnings():
        watching: Any = {"fps": fps, "max_frames": max_frames, "context": spoken, "progress": tell}
        shown = video if decoded is None else decoded.video
        watch = partial(chat.watch, piecewise=piecewise)
        if kept is not None:
            watch = partial(kept.watch, chat)
        watched = chat.load(video) if is_saved else watch(shown, **watching)
        asked = _ask_all(watched, questions, conversation, max_new_tokens)
    if save is not None:
        watched.save(save)
    is_loaded = is_saved or (kept is not None and kept.hits > 0)
    described = "as saved" if is_saved else describe_method(reduction.method)
    seconds = watched.timings.decode if decoded is None else decoded.seconds
    decoding = None if is_loaded else seconds
    result = _result(str(video), loaded.name, described, watched, decoding, asked)
    if json:
        show_json(result)
    else:
        _show(result)


def _in_pieces(reduction: Reduction) -> Reduction:
    """Let an exact budget be met piece by piece; thresholds are as they are."""
    from sttm.methods import STTM

    method = reduction.method
    if not isinstance(method, STTM) or method.keep is None or method.piece is not None:
        return reduction
    return replace(reduction, method=replace(method, piece=PIECE_STEPS))


def _open_store(folder: Path, dtype: StoreDtype | None) -> "VideoStore":
    from sttm.chat import VideoStore

    with noted_warnings():
        return VideoStore(folder, kv_dtype=None if dtype is None else dtype.value)


def _result(
    video: str,
    model: str,
    method: str,
    watched: "PrefilledVideo",
    decode_s: float | None,
    asked: list[Asked],
) -> AskResult:
    return AskResult(
        video=video,
        model=model,
        method=method,
        layer=watched.layer,
        frames=len(watched.source.timestamps),
        tokens_in=watched.tokens_in,
        tokens_out=watched.tokens_out,
        retention=watched.retention,
        loaded=decode_s is None,
        decode_s=decode_s,
        process_s=watched.timings.process,
        encode_s=watched.timings.encode,
        prefill_s=watched.timings.prefill,
        ttft_s=None if decode_s is None else watched.timings.prefill + asked[0].ttft_s,
        questions=asked,
    )


def _check_save(save: Path | None) -> None:
    """Refuse a bad name before the work, not after it."""
    if save is None:
        return
    if save.suffix.lower() != SAVED:
        raise ConfigError(f"--save: got {save.name!r}, expected a name that ends in {SAVED}.")
    if not save.parent.is_dir():
        raise ConfigError(f"--save: got {save}, whose folder does not exist. Create it first.")
    if save.exists() and not save.is_file():
        raise ConfigError(f"--save: got {save}, which is no file. Choose another name.")
    check_folder(save.parent, "--save")


def _subtitle_text(subtitles: str | None, video: "Video") -> str:
    from sttm.video import find_subtitles, read_subtitles, subtitles_at

    if subtitles is None:
        return ""
    file = find_subtitles(video.path) if subtitles == "auto" else Path(subtitles)
    if file is None:
        raise ConfigError(
            f"--subtitles auto: got no .srt or .vtt file beside {video.path}, expected one of the "
            "same name. Name the file instead."
        )
    spoken = subtitles_at(read_subtitles(file), video.timestamps)
    return _LEAD + "\n".join(spoken) + "\n" if spoken else ""


def _ask_all(
    watched: "PrefilledVideo", questions: list[str], remember: bool, max_new_tokens: int
) -> list[Asked]:
    talk: Conversation | PrefilledVideo = watched.conversation() if remember else watched
    asked = []
    for question in questions:
        answer = talk.ask(question, max_new_tokens=max_new_tokens)
        asked.append(
            Asked(question, answer.text, answer.prompt_tokens, answer.ttft, answer.seconds)
        )
    return asked


def _show(result: AskResult) -> None:
    rows = [(q.question, q.answer, q.tokens, milliseconds(q.ttft_s)) for q in result.questions]
    show_table(("question", "answer", "tokens paid", "TTFT"), rows)
    place = "" if result.layer is None else f", before layer {result.layer}"
    say(
        f"{result.frames} frames, {result.tokens_in} -> {result.tokens_out} tokens "
        f"({percent(result.retention)}), {result.method}{place}, model {result.model}"
    )
    times = (
        f"processor {milliseconds(result.process_s)}, "
        f"vision tower {milliseconds(result.encode_s)}, prefill {milliseconds(result.prefill_s)}"
    )
    if result.decode_s is None or result.ttft_s is None:
        say(f"loaded, not paid again: {times}")
        return
    say(f"decode {milliseconds(result.decode_s)}, {times}")
    say(f"prefill and first question to its first token: {milliseconds(result.ttft_s)}")
