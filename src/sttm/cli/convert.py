"""``sttm convert``: published checkpoints for transformers, and folders that it serves reduced."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sttm.cli.command import refuse_idle
from sttm.cli.loading import check_supported
from sttm.cli.options import JsonOption, KeepOption, LayerOption, MethodOption
from sttm.cli.output import note, say, show_json, show_table
from sttm.cli.progress import progress_bars
from sttm.cli.reduction import Wanted, describe_method, parse_reduction
from sttm.errors import ConfigError

if TYPE_CHECKING:
    from sttm.checkpoints import Conversion

_BYTES, _NUMBERS = ("GB", "MB"), ("B", "M")
_FRAMES = 128  # for which the cache is told: the most that the published runs of 7B models sample


@dataclass(frozen=True)
class Moved:
    """One tensor of the result; source None if it is made."""

    target: str
    source: str | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ConvertResult:
    """What ``sttm convert --json`` prints; sizes in bytes.

    Args:
        out: None for a dry run.
        newline: where videos get newline tokens.
        checkpoint_newline: where config.json of the checkpoint has them.
        cache_per_frame: keys and values of one frame, before a reduction.
        reused_files: that an interrupted conversion had written.
        dropped: tensors of the checkpoint that are not used, and why.
        tensors: empty unless it is a dry run.
    """

    checkpoint: str
    out: str | None
    dtype: str
    newline: str
    checkpoint_newline: str
    time_instruction: bool
    vision_tower: str
    parameters: int
    weights: int
    tokens_per_frame: int
    cache_per_frame: int
    reused_files: int
    verified: bool
    dropped: dict[str, str]
    tensors: list[Moved]


@dataclass(frozen=True)
class ServedResult:
    """What ``sttm convert --serve --json`` prints.

    Args:
        files: that were written; everything else is links to the model's own.
    """

    model: str
    out: str
    method: str
    files: list[str]


def convert(
    context: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Folder or hub id: in LLaVA-NeXT's layout, with --serve in transformers'.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="A new folder; not needed for --dry-run.")
    ] = None,
    vision_tower: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Folder or hub id of the SigLIP tower, for a checkpoint without one. "
            "Default: the one that its config.json names.",
        ),
    ] = None,
    newline: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="Newline tokens of a video: no_token, one_token (behind it), frame (behind each), "
            "grid (behind each row), or 'checkpoint' for what its config.json says.",
        ),
    ] = "no_token",
    dtype: Annotated[
        str, typer.Option(help="auto (as stored), bfloat16, float16 or float32.")
    ] = "auto",
    verify: Annotated[
        bool, typer.Option("--verify", help="Then compare every tensor with the checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what becomes of what; write nothing.")
    ] = False,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Write a folder that `transformers serve OUT --trust-remote-code` runs reduced.",
        ),
    ] = False,
    keep: KeepOption = None,
    method: MethodOption = None,
    layer: LayerOption = None,
    json: JsonOption = False,
) -> None:
    """Convert a LLaVA-Video or LLaVA-OneVision checkpoint to transformers' LLaVA-OneVision.

    With --serve: write a folder for `transformers serve`, which reduces videos.
    """
    from sttm import checkpoints

    if serve:
        idle = ["vision_tower", "newline", "dtype", "verify", "dry_run"]
        refuse_idle(context, idle, "--serve", "the model's files stay as they are")
        served = _serve(checkpoint, out, Wanted(keep=keep, method=method), layer)
        if json:
            show_json(served)
        else:
            say(f"written: {served.out}, {served.method}")
            say(f"use it: transformers serve {served.out} --trust-remote-code")
        return
    refuse_idle(context, ["keep", "method", "layer"], "no --serve", "nothing is reduced here")
    if out is None and not dry_run:
        raise ConfigError("OUT: got none, expected a new folder to write to (or --dry-run).")
    conversion = checkpoints.plan_conversion(
        checkpoint, vision_tower=vision_tower, newline=newline, dtype=dtype
    )
    if not json:
        _say_needs(checkpoint, conversion)
    reused = 0
    if not dry_run and out is not None:
        with progress_bars(quiet=json) as tell:
            reused = checkpoints.convert(conversion, out, verify=verify, progress=tell)
    result = _result(checkpoint, None if dry_run else out, conversion, reused, verify)
    if json:
        show_json(result)
    elif dry_run:
        _show_mapping(result)
    else:
        _say_done(result)


def _serve(checkpoint: str, out: Path | None, wanted: Wanted, layer: int | None) -> ServedResult:
    """Write a folder for ``transformers serve``."""
    from sttm.checkpoints.served import write_served
    from sttm.nano import NANO_LAYER, NANO_POSITIONS, weights_path

    if out is None:
        raise ConfigError("OUT: got none, expected a new folder to write to.")
    is_nano = checkpoint == "nano"
    reduction = parse_reduction(wanted, model=None if is_nano else checkpoint, layer=layer)
    if reduction.method is None:
        raise ConfigError("--keep: got all tokens, expected less: there is nothing to reduce.")
    positions = NANO_POSITIONS if is_nano else "auto"
    if is_nano:
        checkpoint, layer = str(weights_path()), NANO_LAYER if layer is None else layer
    elif check_supported(checkpoint):
        raise ConfigError(
            f"CHECKPOINT: got {checkpoint} in LLaVA-NeXT's layout, expected transformers': convert "
            "it without --serve first, then its result with --serve."
        )
    files = write_served(checkpoint, out, reduction.method, layer=layer, positions=positions)
    described = describe_method(reduction.method)
    return ServedResult(checkpoint, str(out), described, [str(file) for file in files])


def _result(
    checkpoint: str, out: Path | None, conversion: "Conversion", reused: int, verified: bool
) -> ConvertResult:
    config, needs, source = conversion.config, conversion.needs(), conversion.source.config
    moves = conversion.tensors.moves if out is None else ()
    return ConvertResult(
        checkpoint=checkpoint,
        out=None if out is None else str(out),
        dtype=str(config.dtype).removeprefix("torch."),
        newline=config.mm_newline_position,
        checkpoint_newline=source.mm_newline_position,
        time_instruction=config.add_time_instruction,
        vision_tower="in the checkpoint" if conversion.tower.own else "from elsewhere",
        parameters=needs.parameters,
        weights=needs.weights,
        tokens_per_frame=needs.tokens_per_frame,
        cache_per_frame=needs.cache_per_frame,
        reused_files=reused,
        verified=verified and out is not None,
        dropped=dict(conversion.tensors.dropped),
        tensors=[Moved(move.target, move.source, move.shape) for move in moves],
    )


def _say_needs(checkpoint: str, conversion: "Conversion") -> None:
    """Tell what is ahead, before anything is written."""
    needs, config = conversion.needs(), conversion.config
    dtype = str(config.dtype).removeprefix("torch.")
    say(
        f"{checkpoint}: {_large(needs.parameters, *_NUMBERS)} parameters, "
        f"{_large(needs.weights, *_BYTES)} in {dtype}; converting takes so much disk, and "
        f"{_large(needs.conversion, *_BYTES)} of memory"
    )
    cache = _large(_FRAMES * needs.cache_per_frame, *_BYTES)
    say(
        f"to run it: the weights, and {cache} of KV cache per {_FRAMES} frames of "
        f"{needs.tokens_per_frame} tokens (less with a reduction)"
    )
    own = conversion.source.config
    if own.rope_scaling:
        note("rope_scaling in config.json is left out: LLaVA-NeXT's own code ignores it.")
    if own.mm_newline_position != config.mm_newline_position:
        note(
            f"newline tokens: {config.mm_newline_position}; the checkpoint's config.json says "
            f"{own.mm_newline_position} (--newline checkpoint keeps that)."
        )


def _say_done(result: ConvertResult) -> None:
    kept = f", {result.reused_files} of its files from before" if result.reused_files else ""
    checked = ", every tensor verified" if result.verified else ""
    say(f"written: {result.out}{kept}{checked}")
    say(f'use it: sttm ask VIDEO "QUESTION" --model {result.out}')


def _show_mapping(result: ConvertResult) -> None:
    rows = [
        (moved.source or "(zeros)", moved.target, "x".join(map(str, moved.shape)))
        for moved in result.tensors
    ]
    rows += [(name, f"(dropped: {why})", "") for name, why in result.dropped.items()]
    show_table(("checkpoint", "transformers", "shape"), rows)


def _large(count: int, big: str, small: str) -> str:
    """Write a large number with its unit: one for billions, one for millions."""
    if count >= 10**8:
        return f"{count / 1e9:.2f} {big}"
    return f"{count / 1e6:.2f} {small}"
