"""Options that several commands share, and what they mean."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import typer

from sttm.budget import token_budget
from sttm.errors import ConfigError
from sttm.methods import STTM, Method
from sttm.methods.sttm import DEFAULT_SPATIAL, DEFAULT_TEMPORAL
from sttm.plan import MergePlan

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="ID", help="Hub id or folder. Default: nano, the bundled model."
    ),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        "-k",
        metavar="R|N",
        help="Most video tokens to keep: a share (0.3 or 30%) or a count (512); 1 keeps all. The "
        "thresholds are searched, so that somewhat fewer may remain.",
    ),
]
ThresholdsOption = Annotated[
    str | None,
    typer.Option(
        "--thresholds",
        "-t",
        metavar="S/T",
        help="Least similarity to merge, within a frame / from frame to frame; 'none' switches a "
        "step off. Default: 0.80/0.60, as published; for nano, whose features are more alike, "
        "--keep 0.3 instead.",
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option(
        help="Merge in front of this decoder layer. Default: 2, as published; 0 for nano, which "
        "has read its digits after its first layer: merging later would show nothing."
    ),
]
FpsOption = Annotated[float, typer.Option(help="Frames to sample per second.")]
MaxFramesOption = Annotated[int, typer.Option(help="Most frames to sample.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")]
VideoArgument = Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file.")]

NANO_KEEP = 0.3
_NO_STEP = "none"


@dataclass(frozen=True)
class Reduction:
    """Which tokens to merge, as asked for on the command line.

    Args:
        method: None keeps every token.
        layer: decoder layer; None for the default of the model.
    """

    method: Method | None
    layer: int | None = None

    def unused_budget(self, plan: MergePlan) -> str:
        """Say by how much a searched budget was missed; empty if it was met or not given."""
        keep = getattr(self.method, "keep", None)
        allowed = None if keep is None else token_budget(keep, plan.num_in)
        if allowed is None or allowed == plan.num_out:
            return ""
        return (
            f"--keep {keep:g} allows {allowed} tokens; {plan.num_out} remain, the nearest count "
            "below that a pair of thresholds reaches."
        )


def default_method(model: str | None) -> Method:
    """Choose what to do when nothing was asked for.

    The published thresholds leave about 30 % of the tokens in 7B models, but 1 % in nano, whose
    features are more alike. There the budget that they stand for is the default.

    Args:
        model: as in ``--model``; None for nano.
    """
    if model is None:
        return STTM(keep=NANO_KEEP)
    return STTM(spatial_threshold=DEFAULT_SPATIAL, temporal_threshold=DEFAULT_TEMPORAL)


def parse_reduction(
    keep: str | None,
    thresholds: str | None,
    *,
    model: str | None,
    layer: int | None = None,
    full: bool = False,
) -> Reduction:
    """Turn the options into a method.

    Args:
        keep, thresholds, model, layer, full: the options of these names.
    Raises: ConfigError: a value that cannot be read or is out of range, or two that contradict.
    """
    given = [
        name
        for name, value in (
            ("--keep", keep),
            ("--thresholds", thresholds),
            ("--full", full or None),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise ConfigError(f"got {' and '.join(given)}, expected one of them. Drop the others.")
    if full:
        return Reduction(None, layer)
    if keep is not None:
        return Reduction(_with_budget(keep), layer)
    if thresholds is not None:
        return Reduction(_with_thresholds(thresholds), layer)
    return Reduction(default_method(model), layer)


def _with_budget(text: str) -> Method | None:
    budget = _parse_keep(text)
    return None if budget == 1 else STTM(keep=budget)


def _with_thresholds(text: str) -> Method | None:
    spatial, temporal = _parse_thresholds(text)
    if spatial is None and temporal is None:
        return None
    return STTM(spatial_threshold=spatial, temporal_threshold=temporal)


def _parse_keep(text: str) -> float | int:
    stripped = text.strip()
    try:
        number = Decimal(stripped.removesuffix("%").strip())
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise ConfigError(
            f"--keep: got {text!r}, expected a share such as 0.3 or 30%, or a count such as 512."
        )
    if stripped.endswith("%"):
        return float(number / 100)
    return int(number) if number > 1 and number == number.to_integral_value() else float(number)


def _parse_thresholds(text: str) -> tuple[float | None, float | None]:
    parts = [part.strip().lower() for part in text.split("/")]
    if parts == [_NO_STEP]:
        parts = [_NO_STEP, _NO_STEP]
    try:
        spatial, temporal = (None if part == _NO_STEP else float(part) for part in parts)
    except ValueError as error:
        raise ConfigError(
            f"--thresholds: got {text!r}, expected two cosines such as 0.85/0.65; 'none' for one "
            "of them switches a step off."
        ) from error
    return spatial, temporal


def describe_method(method: Method | None) -> str:
    """Name a method and its setting in a few words."""
    if method is None:
        return "all tokens"
    keep = getattr(method, "keep", None)
    if keep is not None:
        return f"{method.name}, keep {keep:g}"
    if not isinstance(method, STTM):
        return method.name
    steps = (method.spatial_threshold, method.temporal_threshold)
    return f"{method.name}, thresholds " + "/".join(
        _NO_STEP if step is None else str(step) if step == "auto" else f"{step:.2f}"
        for step in steps
    )
