"""Read ``--model_args``: which model, which reduction, which frames."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from sttm.cli.reduction import Reduction, Wanted, parse_reduction
from sttm.errors import ConfigError, SttmError
from sttm.methods import STTM
from sttm.video import Sampling

NANO = "nano"
OnError = Literal["stop", "skip"]

_OWN = (
    "pretrained",
    "method",
    "keep",
    "thresholds",
    "max_tokens",
    "full",
    "layer",
    "positions",
    "fps",
    "max_frames",
    "rule",
    "system_prompt",
    "on_error",
    "batch_size",
    "max_batch_size",
    "device",
    "device_map",
)
_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Args:
        pretrained: hub id or folder; None for nano.
        reduction: which tokens to merge.
        sampling: which frames to read.
        positions: see `sttm.attach`; None for the default of the model.
        system: system prompt; None for the chat template's own.
        on_error: what to do about a video that cannot be read: "stop", or "skip" its questions.
        where: where to put the model, see `sttm.checkpoints.Placement`; None for its default.
    """

    pretrained: str | None
    reduction: Reduction
    sampling: Sampling
    positions: str | None = None
    system: str | None = None
    on_error: OnError = "stop"
    where: str | None = None


def read_arguments(given: Mapping[str, Any]) -> Arguments:
    """Check what lmms-eval made of ``--model_args``, ``--batch_size`` and ``--device``.

    Names that are not the adapter's own are options of the method, e.g. ``linking=components``.

    Raises:
        ConfigError: a misspelt name, a bad value, or two that contradict.
    """
    _refuse_misspelt(given)
    name = _pretrained(given)
    _check_batch(given.get("batch_size", 1))
    layer = None if _absent(given, "layer") else _whole("layer", given["layer"])
    return Arguments(
        pretrained=name,
        reduction=_reduction(given, name, layer),
        sampling=_sampling(given),
        positions=_text(given, "positions"),
        system=_text(given, "system_prompt"),
        on_error=_on_error(given.get("on_error", "stop")),
        where=_text(given, "device_map") or _text(given, "device"),
    )


@contextlib.contextmanager
def reworded() -> Iterator[None]:
    """Let errors of the command line name what they are about as it is written in model_args."""
    try:
        yield
    except SttmError as error:
        text = _OPTION.sub(lambda found: found[1].replace("-", "_"), str(error))
        words = re.sub(r"^model: ", "pretrained: ", text)
        raise type(error)(f"model_args: {words}") from error


def _text(given: Mapping[str, Any], name: str) -> str | None:
    return None if _absent(given, name) else str(given[name])


def _absent(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "none"))


def _refuse_misspelt(given: Mapping[str, Any]) -> None:
    for name in given:
        close = get_close_matches(name, _OWN, n=1, cutoff=0.8)
        if name not in _OWN and close:
            raise ConfigError(
                f"model_args: got {name!r}. Did you mean {close[0]!r}? Expected some of "
                f"{', '.join(_OWN)}, or options of the method."
            )


def _pretrained(given: Mapping[str, Any]) -> str | None:
    if _absent(given, "pretrained"):
        raise ConfigError(
            "model_args: got no pretrained, expected the hub id or folder of a model, e.g. "
            "pretrained=Qwen/Qwen2.5-VL-7B-Instruct, or pretrained=nano for the bundled one."
        )
    name = str(given["pretrained"]).strip()
    return None if name == NANO else name


def _check_batch(value: Any) -> None:
    if str(value).strip() != "1":
        raise ConfigError(
            f"batch_size: got {value!r}, expected 1: questions about one video share its prefill "
            "instead of a batch. Leave --batch_size out."
        )


def _reduction(given: Mapping[str, Any], model: str | None, layer: int | None) -> Reduction:
    options = [f"{name}={value}" for name, value in given.items() if name not in _OWN]
    method = _text(given, "method")
    if options:
        method = method or STTM.name
        method += (":" if ":" not in method else ",") + ",".join(options)
    wanted = Wanted(
        keep=_text(given, "keep"),
        thresholds=_text(given, "thresholds"),
        max_tokens=_text(given, "max_tokens"),
        method=method,
        full=_flag("full", given.get("full", False)),
    )
    with reworded():
        return parse_reduction(wanted, model=model, layer=layer)


def _sampling(given: Mapping[str, Any]) -> Sampling:
    fps = given.get("fps", 1.0)
    if isinstance(fps, bool) or not isinstance(fps, int | float):
        raise ConfigError(f"fps: got {fps!r}, expected frames per second, e.g. fps=1.")
    frames = _whole("max_frames", given.get("max_frames", 128))
    return Sampling(rule=str(given.get("rule", "llava")), fps=float(fps), max_frames=frames)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name}: got {value!r}, expected a whole number, e.g. {name}=2.")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}: got {value!r}, expected true or false.")
    return value


def _on_error(value: Any) -> OnError:
    if value == "stop" or value == "skip":
        return "stop" if value == "stop" else "skip"
    raise ConfigError(f"on_error: got {value!r}, expected stop or skip.")
