"""Options that several commands share, and what they mean."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import typer

from sttm.cli.command import refuse_idle

T = TypeVar("T")


def with_options(*groups: type[Any]) -> Callable[[T], T]:
    """Give a command the fields of dataclasses as options, beside its own parameters.

    A field is an option if its type is ``Annotated`` with one, or if its metadata has a "help"
    text: then they are the arguments of ``typer.Option``. The command takes them as ``**options``.

    Args:
        *groups: the dataclasses.
    """

    def decorate(command: T) -> T:
        made: Any = command
        own = inspect.signature(made).parameters.values()
        kept = [each for each in own if each.kind is not each.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=each.default,
                annotation=_annotated(each),
            )
            for group in groups
            for each in option_fields(group)
        ]
        made.__signature__ = inspect.Signature([*kept, *added])
        return command

    return decorate


def option_fields(group: type[Any]) -> "list[Field[Any]]":
    """List the fields of a dataclass that are options."""
    return [f for f in fields(group) if "help" in f.metadata or get_origin(f.type) is Annotated]


def _annotated(each: "Field[Any]") -> Any:
    if not each.metadata:
        return each.type
    flags = [f"--{each.name.replace('_', '-')}"] if each.default is False else []
    return Annotated[each.type, typer.Option(*flags, **each.metadata)]


def taken(group: type[T], options: Mapping[str, Any]) -> T:
    """Build a dataclass from those of a command's options that are its fields."""
    names = [each.name for each in fields(group)]  # type: ignore[arg-type]
    return group(**{name: options[name] for name in names})


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="ID", help="Hub id or folder. Default: nano, the bundled model."
    ),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        metavar="WHERE",
        help="For a model over several GPUs: auto or balanced (whole layers on each), tp (parts of "
        "every layer, under torchrun); or one device, e.g. cuda:1, cpu. Default: auto.",
    ),
]


class Dtype(StrEnum):
    """Of weights and activations."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Rule(StrEnum):
    """Which frames are sampled."""

    LLAVA = "llava"
    QWEN = "qwen"
    UNIFORM = "uniform"


RuleOption = Annotated[
    Rule | None, typer.Option(help="Sampling rule. Default: the task's, or llava.")
]
NewlineOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODE",
        help="Newline tokens of a LLaVA model's videos: no_token, one_token (behind it), frame "
        "(behind each), grid (behind each row), or 'checkpoint' for what the config.json of a "
        "checkpoint in LLaVA-NeXT's layout says. Default: a converted model's own, or no_token.",
    ),
]
DtypeOption = Annotated[Dtype | None, typer.Option(help="Of the model. Default: the checkpoint's.")]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        "-k",
        metavar="R|N",
        help="Video tokens to keep, exactly: a share (0.3 or 30%) or a count (512); 1 keeps all.",
    ),
]
ThresholdsOption = Annotated[
    str | None,
    typer.Option(
        "--thresholds",
        "-t",
        metavar="S/T|FILE",
        help="Least similarity to merge, within a frame / from frame to frame; 'none' switches a "
        "step off. Or a file that `sttm calibrate` wrote. Default: 0.80/0.60, as published; for "
        "nano, whose features are more alike, --keep 0.3 instead.",
    ),
]
MaxTokensOption = Annotated[
    str | None,
    typer.Option(
        "--max-tokens",
        metavar="R|N",
        help="Cap on what the thresholds leave, as --keep; below it they decide.",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="SPEC",
        help="NAME or NAME:option=value,option=value, see `sttm methods`. Default: sttm.",
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option(
        help="Merge in front of this decoder layer. Default: 2, as published; 0 for nano, which "
        "has read its digits after its first layer: merging later would show nothing."
    ),
]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, where and how."""

    model: ModelOption = None
    device_map: DeviceMapOption = None
    dtype: DtypeOption = None
    newline: NewlineOption = None

    @property
    def arguments(self) -> tuple[str | None, str | None, str | None, str | None]:
        """What `load_model` and `load_pair` take."""
        return self.model, self.device_map, self.dtype and self.dtype.value, self.newline


FpsOption = Annotated[float, typer.Option(help="Frames to sample per second.")]
MaxFramesOption = Annotated[int, typer.Option(help="Most frames to sample.")]
DedupeOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=255,
        metavar="LEVELS",
        help="Frames without a patch that differs by more from the last encoded frame, in levels "
        "of 0 to 255, take its features. 0: only exact repeats, without any loss.",
    ),
]
ReuseOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=255,
        metavar="LEVELS",
        help="In the vision tower, encode only patches that have changed by more, in levels of 0 "
        "to 255; the others keep their outputs.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")]


class OnError(StrEnum):
    """What happens when a video or question is bad."""

    STOP = "stop"
    SKIP = "skip"


OnErrorOption = Annotated[
    OnError,
    typer.Option(help="At a bad video or question, or an empty answer: stop, or skip it and tell."),
]
VideoArgument = Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file.")]


def refuse_fps(context: typer.Context, rule: Rule | None) -> None:
    """Refuse frames per second with the rule that does not look at them.

    Raises:
        ConfigError: both were given.
    """
    if rule is Rule.UNIFORM:
        why = "it spreads --max-frames over the whole video"
        refuse_idle(context, ["fps"], "--rule uniform", why)
