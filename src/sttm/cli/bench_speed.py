"""``sttm bench speed``: time and memory at the shapes of published models."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.budget import read_keep, written_keep
from sttm.cli.command import refuse_unused
from sttm.cli.executor_options import set_threads
from sttm.cli.options import Dtype, JsonOption
from sttm.cli.output import command_line, milliseconds, percent, results, say, show_json, show_table
from sttm.cli.progress import progress_bars
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.speed import SpeedPlan, SpeedRow

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
_WIDE = 118  # letters
_FOOTNOTE = (
    "Random weights. TTFT is the language model's first forward, merging included; the vision "
    "tower is left out. Medians after a warm-up, settings in turn. Peak memory is beyond weights "
    "and features. Ideal: floating-point operations alone. * the count was forced."
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
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")
    ] = Path("out/speed"),
    json: JsonOption = False,
) -> None:
    """Time prefill and decoding with random weights: all tokens, and each method at each budget.

    Writes speed.json and speed.md. The vision tower is not part of the times.
    """
    import torch

    from sttm.evaluation.speed import SpeedPlan, measure, speed_settings

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
    make_folder(out)
    set_threads(threads)
    with progress_bars(quiet=json) as tell:
        tell("measure", 0, 1)
        rows = measure(plan, progress=lambda done, total: tell("measure", done, total))
    header = _header(plan)
    files = _write(out, header, rows)
    if json:
        plain = [asdict(row) for row in rows]
        show_json({**header, "rows": plain, "files": [str(file) for file in files]})
        return
    wide = results.width >= _WIDE
    shown = range(len(_COLUMNS)) if wide else [_COLUMNS.index(name) for name in _NARROW]
    for count in plan.frames:
        some = [row for row in rows if row.frames == count]
        title = f"{shape}, {count} frames, {some[0].tokens_in} video tokens, {device}, {dtype}"
        lines = [[_cells(row)[place] for place in shown] for row in some]
        show_table([_COLUMNS[place] for place in shown], lines, title=title)
    say(_FOOTNOTE + ("" if wide else " More columns are in speed.md, or in a wider terminal."))
    for file in files:
        say(f"wrote {file}")


def _header(plan: "SpeedPlan") -> dict[str, Any]:
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
            "vision_tower_timed": False,
        },
        "dimensions": {field.name: getattr(shape, field.name) for field in fields(shape)},
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


def _write(out: Path, header: dict[str, Any], rows: Sequence["SpeedRow"]) -> list[Path]:
    from sttm.evaluation.render import markdown_table
    from sttm.files import write_json, write_text

    files = [out / "speed.json", out / "speed.md"]
    write_json(files[0], {**header, "rows": [asdict(row) for row in rows]})
    settings, machine = header["settings"], header["machine"]
    parts = [
        f"# Speed at the shape of {settings['shape']}\n",
        f"`{header['command']}`\n",
        f"{machine['device']} ({machine['cpu']}), {machine['threads']} threads, load "
        f"{machine['load_average'][0]}, {settings['dtype']}, layer {settings['layer']}, commit "
        f"{machine['commit']}, torch {machine['torch']}, transformers {machine['transformers']}.\n",
        f"{_FOOTNOTE}\n",
    ]
    for count in dict.fromkeys(row.frames for row in rows):
        some = [_cells(row) for row in rows if row.frames == count]
        parts.append(f"## {count} frames\n")
        parts.append(markdown_table(_COLUMNS, some))
    write_text(files[1], "\n".join(parts))
    return files
