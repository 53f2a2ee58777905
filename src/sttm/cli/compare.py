"""``sttm compare``: which method and budget is good enough for a model and some videos."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.budget import read_keep, written_keep
from sttm.cli.command import refuse_unused
from sttm.cli.decoding import decode
from sttm.cli.loading import Loaded, load_model, refuse_for_nano
from sttm.cli.options import (
    DeviceMapOption,
    FpsOption,
    JsonOption,
    LayerOption,
    MaxFramesOption,
    ModelOption,
    OnError,
    OnErrorOption,
)
from sttm.cli.output import (
    command_line,
    milliseconds,
    note,
    percent,
    say,
    show_json,
    show_table,
)
from sttm.cli.progress import Tell, progress_bars
from sttm.errors import SttmError, VideoError, WriteError
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.compare import Question, Row, VideoComparison
    from sttm.evaluation.compare.store import ComparisonFile
    from sttm.evaluation.specs import Setting

_METHODS = ["sttm", "tome", "evs", "random"]
_KEEP = ["0.5", "0.3", "0.1"]
_FILE, _PICTURE = "compare.json", "compare.png"
_COLUMNS = (
    "method",
    "keep",
    "layer",
    "tokens",
    "error",
    "cover .90",
    "KL",
    "equal",
    "weakest",
    "merge",
    "TTFT",
)
_FOOTNOTE = (
    "error: |x - x'| / |x| at the merging layer; cover .90: tokens whose group mean has a cosine "
    "of .90 with them; KL (nats), equal: next tokens along the unreduced model's answers; weakest: "
    "the kind of question with the largest KL; TTFT: prefill and question, without the vision "
    "tower."
)


@dataclass(frozen=True)
class _Work:
    """What to do with each video."""

    loaded: Loaded
    settings: "Sequence[Setting]"
    questions: "Sequence[Question]"
    layer: int | None
    max_new_tokens: int
    fps: float
    max_frames: int


def compare(
    context: typer.Context,
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEO...", help="Video files, or folders of them.")
    ],
    model: ModelOption = None,
    device_map: DeviceMapOption = None,
    methods: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC...",
            help="Methods that do not depend on the question, as in `sttm eval run`.",
        ),
    ] = _METHODS,
    keep: Annotated[
        list[str], typer.Option(metavar="R|N...", help="Budgets; all tokens always run.")
    ] = _KEEP,
    questions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Questions of your own, one a line: 'when: What happens first?'. Default: ten "
            "about any video; for nano, those that it knows.",
        ),
    ] = None,
    layer: LayerOption = None,
    fps: FpsOption = 1.0,
    max_frames: MaxFramesOption = 128,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer to compare on.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for compare.json and compare.png; a run that was cut off goes on there.",
        ),
    ] = None,
    on_error: OnErrorOption = OnError.STOP,
    json: JsonOption = False,
) -> None:
    """Find the method and budget that is good enough for your model and videos, without labels.

    Every method and budget is compared with the unreduced model's own answers.
    """
    from sttm.evaluation.compare import (
        check_settings,
        default_questions,
        draw_comparison,
        read_questions,
        summarize,
    )
    from sttm.evaluation.compare.store import ComparisonFile
    from sttm.evaluation.specs import make_settings
    from sttm.video import Sampling
    from sttm.video.files import find_videos

    keeps = [read_keep(text, "--keep") for text in keep]
    settings = make_settings(methods, keeps)
    refuse_unused(context, settings, keeps)
    refuse_for_nano(context, model)
    reducing = check_settings(settings)
    asked = read_questions(questions) if questions else default_questions(nano=model is None)
    Sampling(fps=fps, max_frames=max_frames)
    stop = on_error is OnError.STOP
    names = _names(find_videos(videos), stop=stop)
    if out is not None:
        make_folder(out)
    loaded = load_model(model, device_map)
    layer = loaded.layer if layer is None else layer
    work = _Work(loaded, reducing, asked, layer, max_new_tokens, fps, max_frames)
    store = ComparisonFile(None if out is None else out / _FILE, *_header(work))
    _fill(store, work, names, stop=stop, quiet=json)
    if out is not None:
        draw_comparison(summarize(list(store.videos.values())), out / _PICTURE)
    if json:
        show_json({"videos": list(store.videos), **store.conclusions()})
        return
    _show(list(store.videos.values()))
    if out is not None:
        say(f"wrote {out / _FILE} and {out / _PICTURE}")


def _fill(
    store: "ComparisonFile", work: _Work, names: Mapping[str, Path], *, stop: bool, quiet: bool
) -> None:
    """Measure the videos that are not in the store, and put them there."""
    if store.videos:
        note(f"got {len(store.videos)} videos from {_FILE}: they are not measured again.")
    for name, path in names.items():
        if name not in store.videos:
            with _skipping(path, stop=stop or len(names) == 1), progress_bars(quiet=quiet) as tell:
                store.add(name, _compare_one(work, path, tell))
    if not store.videos:
        raise VideoError(
            f"got {len(names)} videos of which none can be compared, expected at least one. The "
            "notes above say what is wrong with each."
        )


def _names(files: Sequence[Path], *, stop: bool) -> dict[str, Path]:
    """Name the videos by what is in them: each once."""
    from sttm.evaluation.compare.store import video_name

    names: dict[str, Path] = {}
    for path in files:
        with _skipping(path, stop=stop or len(files) == 1):
            names.setdefault(video_name(path), path)
    return names


@contextmanager
def _skipping(path: Path, *, stop: bool) -> Iterator[None]:
    """Make what is wrong with one video a note, unless it is to stop everything."""
    from sttm.evaluation.trouble import naming, told

    try:
        with naming(str(path)):
            yield
    except WriteError:  # the next video would fare no better
        raise
    except SttmError as error:
        if stop:
            raise
        note(f"skipped: {told(str(path), error)}")


def _compare_one(work: _Work, path: Path, tell: Tell) -> "VideoComparison":
    from sttm.evaluation.compare import compare_video

    decoded = decode(path, work.fps, work.max_frames, tell)
    return compare_video(
        work.loaded.model,
        work.loaded.processor,
        decoded.video,
        work.settings,
        work.questions,
        layer=work.layer,
        positions=work.loaded.positions,
        max_new_tokens=work.max_new_tokens,
        progress=lambda done, total: tell(f"compare {path.name}", done, total),
    )


def _header(work: _Work) -> tuple[dict[str, Any], dict[str, Any]]:
    from sttm.evaluation.environment import environment, fingerprint

    model = work.loaded.model
    settings = {
        "model": work.loaded.name,
        "weights": fingerprint(model),
        "layer": work.layer,
        "settings": [[each.spec, each.keep] for each in work.settings],
        "questions": [asdict(question) for question in work.questions],
        "max_new_tokens": work.max_new_tokens,
        "fps": work.fps,
        "max_frames": work.max_frames,
    }
    return settings, {"command": command_line(), "machine": environment(model.device)}


def _show(videos: "Sequence[VideoComparison]") -> None:
    from sttm.evaluation.compare import recommend, summarize

    rows = summarize(videos)
    answers = [answer for video in videos for answer in video.answers]
    title = (
        f"{len(videos)} videos, {len(answers)} answers of {sum(a.tokens for a in answers)} tokens"
    )
    show_table(_COLUMNS, [_cells(row) for row in rows], title=title)
    say(_FOOTNOTE)
    for sentence in recommend(rows).text:
        say(sentence)


def _cells(row: "Row") -> list[str]:
    budget = "-" if row.keep is None else written_keep(row.keep)
    if not row.videos:
        return [row.method, budget, *["-"] * 8, "out of reach"]
    return [
        row.method,
        budget,
        "-" if row.layer is None else str(row.layer),
        f"{row.tokens_out:.0f}",
        f"{row.error:.3f}",
        percent(row.coverage),
        f"{row.agreement.kl:.3f}",
        percent(row.agreement.equal),
        row.weakest if row.agreement.kl else "-",
        milliseconds(row.merge_s),
        milliseconds(row.ttft_s),
    ]
