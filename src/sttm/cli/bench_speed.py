"""``sttm bench speed``: time and memory at the shapes of published models."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.budget import read_keep, written_keep
from sttm.cli.command import refuse_unused
from sttm.cli.executor_options import set_threads
from sttm.cli.options import Dtype, JsonOption
from sttm.cli.output import (
    command_line,
    milliseconds,
    note,
    percent,
    results,
    say,
    show_json,
    show_table,
)
from sttm.cli.progress import progress_bars
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.speed import SpeedPlan, SpeedResult
    from sttm.evaluation.speed_rows import SpeedRow
    from sttm.evaluation.stages import StageRow

_METHODS = ["sttm"]
_KEEP = ["0.5", "0.3", "0.1"]
_FRAMES = [16]
_COLUMNS = (
    "method",
    "keep",
    "tokens",
    "merge",
    "TTFT",
    "decode/token",
    "KV MiB",
    "peak MiB",
    "TTFT ratio",
    "ideal ratio",
    "share of ideal",
)
_NARROW = ("method", "keep", "tokens", "merge", "TTFT", "TTFT ratio", "ideal ratio")
_STAGE_COLUMNS = ("stage", "method", "keep", "time", "per frame", "floor", "peak MiB", "patches")
_WIDE = 118  # letters
LOG = "measured.jsonl"
_FOOTNOTE = (
    "Random weights. TTFT is the language model's first forward, merging included; what comes in "
    "front of it are stages of their own. Medians after a warm-up, settings in turn. Peak memory "
    "is beyond weights and features. Ideal: floating-point operations alone. Floor: the operations "
    "and bytes of a stage at this machine's rates. * the count was forced."
)


def speed(
    context: typer.Context,
    shape: Annotated[
        str, typer.Option(metavar="NAME", help="Published shape, or nano.")
    ] = "llava-onevision-0.5b",
    methods: Annotated[
        list[str],
        typer.Option(
            metavar="SPEC...",
            help="Methods as in `sttm eval run`. With keep=none a method plans by its own "
            "rule, and the count is forced to each budget.",
        ),
    ] = _METHODS,
    keep: Annotated[
        list[str], typer.Option(metavar="R|N...", help="Budgets; all tokens always run.")
    ] = _KEEP,
    frames: Annotated[
        list[int], typer.Option(min=1, metavar="N...", help="Sampled frames.")
    ] = _FRAMES,
    layer: Annotated[
        int | None, typer.Option(help="Merging layer. Default: as published for the shape.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs after one to warm up.")] = 3,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="Of weights and activations.")] = Dtype.FLOAT32,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of PyTorch.")] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What is decoded and encoded. Default: a made video, whose camera stands still.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")
    ] = Path("out/speed"),
    json: JsonOption = False,
) -> None:
    """Time the way from a file to the first token, and decoding, with random weights.

    All tokens, and each method at each budget. Measurements go to a log in the folder as they come:
    a run that was stopped goes on there. Writes speed.json, speed.md and a picture per length.
    """
    import torch

    from sttm.evaluation.result_log import ResultLog
    from sttm.evaluation.speed import SpeedPlan, SpeedRecord, measure, speed_settings
    from sttm.video.container import check_file

    keeps = [read_keep(text, "--keep") for text in keep]
    settings = speed_settings(methods, keeps)
    refuse_unused(context, settings, keeps)
    plan = SpeedPlan(
        shape=shape,
        settings=tuple(settings),
        frames=tuple(frames),
        layer=layer,
        repeats=repeats,
        device=device,
        dtype=getattr(torch, dtype.value),
    )
    if video is not None:
        check_file(video, "video")
    make_folder(out)
    set_threads(threads)
    with progress_bars(quiet=json) as tell:
        tell("measure", 0, 1)
        header = _header(plan, video)
        identity = {**header["settings"], "code": header["machine"]["code"]}
        with ResultLog(out / LOG, identity, header["machine"], SpeedRecord) as log:
            if log.known:
                note(
                    f"{out / LOG} has {len(log.known)} measurements already; only others are made."
                )
            result = measure(
                plan,
                log=log,
                video=video,
                progress=lambda done, total: tell("measure", done, total),
            )
    rows, stages = result.rows, result.stages
    files = _write(out, header, result)
    if json:
        plain = {name: [asdict(row) for row in part] for name, part in vars(result).items()}
        show_json({**header, **plain, "files": [str(file) for file in files]})
        return
    wide = results.width >= _WIDE
    shown = range(len(_COLUMNS)) if wide else [_COLUMNS.index(name) for name in _NARROW]
    for count in plan.frames:
        some = [row for row in rows if row.frames == count]
        title = f"{shape}, {count} frames, {some[0].tokens_in} video tokens, {device}, {dtype}"
        lines = [[_cells(row)[place] for place in shown] for row in some]
        show_table([_COLUMNS[place] for place in shown], lines, title=title)
        way = [_stage_cells(row) for row in stages if row.frames == count]
        show_table(_STAGE_COLUMNS, way, title=f"{shape}, {count} frames, stage by stage")
    say(_FOOTNOTE + ("" if wide else " More columns are in speed.md, or in a wider terminal."))
    for file in files:
        say(f"wrote {file}")


def _header(plan: "SpeedPlan", video: Path | None) -> dict[str, Any]:
    import torch

    from sttm.evaluation.environment import environment
    from sttm.evaluation.shapes import find_shape

    shape = find_shape(plan.shape)
    return {
        "format": 1,
        "benchmark": "speed",
        "command": command_line(),
        "settings": {
            "shape": plan.shape,
            "layer": shape.layer if plan.layer is None else plan.layer,
            "frames": list(plan.frames),
            "repeats": plan.repeats,
            "dtype": str(plan.dtype).removeprefix("torch."),
            "methods": {setting.label: setting.spec for setting in plan.settings},
            "threads": torch.get_num_threads(),
            "video": "made: a camera that stands still" if video is None else video.name,
            "vision_tower_timed": True,
        },
        "dimensions": asdict(shape),
        "machine": environment(torch.device(plan.device)),
    }


def _cells(row: "SpeedRow") -> list[str]:
    return [
        row.method + ("" if row.own_count else " *"),
        "-" if row.keep is None else written_keep(row.keep),
        str(row.tokens_out),
        milliseconds(row.merge_s),
        milliseconds(row.ttft_s),
        milliseconds(row.decode_s),
        f"{row.kv_mib:.1f}",
        "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        f"{row.ttft_ratio:.3f}",
        f"{row.ideal_ratio:.3f}",
        percent(row.share_of_ideal),
    ]


def _stage_cells(row: "StageRow") -> list[str]:
    return [
        row.stage,
        row.method or "",
        "" if row.keep is None else written_keep(row.keep),
        milliseconds(row.seconds),
        milliseconds(row.per_frame_s),
        "-" if row.floor_s is None else milliseconds(row.floor_s),
        "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        "" if row.patches is None else percent(row.patches),
    ]


def _write(out: Path, header: dict[str, Any], result: "SpeedResult") -> list[Path]:
    from sttm.evaluation.render import markdown_table
    from sttm.evaluation.stage_rows import draw_stages
    from sttm.files import write_json, write_text

    counts = list(dict.fromkeys(row.frames for row in result.rows))
    files = [out / "speed.json", out / "speed.md", *(out / f"speed-{n}.png" for n in counts)]
    plain = {name: [asdict(row) for row in part] for name, part in vars(result).items()}
    write_json(files[0], {**header, **plain})
    settings, machine = header["settings"], header["machine"]
    parts = [
        f"# Speed at the shape of {settings['shape']}\n",
        f"`{header['command']}`\n",
        f"{machine['device']} ({machine['cpu']}), {machine['threads']} threads, load "
        f"{machine['load_average'][0]}, {settings['dtype']}, layer {settings['layer']}, commit "
        f"{machine['commit']}, torch {machine['torch']}, transformers {machine['transformers']}.\n",
        f"{_FOOTNOTE}\n",
    ]
    for count, picture in zip(counts, files[2:], strict=True):
        rows = [_cells(row) for row in result.rows if row.frames == count]
        stages = [row for row in result.stages if row.frames == count]
        title = f"{settings['shape']}, {count} frames, {machine['threads']} threads"
        draw_stages(stages, picture, title)
        parts += [f"## {count} frames\n", markdown_table(_COLUMNS, rows)]
        parts += [f"![{title}]({picture.name})\n"]
        parts.append(markdown_table(_STAGE_COLUMNS, [_stage_cells(row) for row in stages]))
    write_text(files[1], "\n".join(parts))
    return files
