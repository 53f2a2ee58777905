"""Load the model that a command runs: nano, or one that transformers finds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from sttm.cli.command import refuse_idle
from sttm.cli.output import note
from sttm.cli.reduction import Reduction
from sttm.errors import ConfigError, UnsupportedModelError, first_line

if TYPE_CHECKING:
    from sttm.chat import VideoChat
    from sttm.checkpoints import Placement
    from sttm.models.encoding import FrameEncoding

BUNDLED = "nano (bundled)"


@dataclass(frozen=True)
class Loaded:
    """A model with its processor.

    Args:
        name: for people.
        model: in eval mode.
        processor: its processor.
        layer: the layer to merge at unless the user says otherwise; None for attach's default.
        positions: the position policy, likewise.
    """

    name: str
    model: Any
    processor: Any
    layer: int | None = None
    positions: str = "auto"

    def chat(self, reduction: Reduction, encoding: "FrameEncoding | None" = None) -> "VideoChat":
        """Begin to chat with this model."""
        from sttm.chat import VideoChat

        layer = self.layer if reduction.layer is None else reduction.layer
        if reduction.method is None:
            layer = None
        chat = VideoChat(
            self.model,
            self.processor,
            reduction.method,
            layer=layer,
            positions=self.positions,
            encoding=encoding,
        )
        misfit = reduction.misfit(self.name, chat.layer)
        if misfit:
            note(misfit)
        return chat


def load_model(
    name: str | None,
    where: str | None = None,
    dtype: str | None = None,
    newline: str | None = None,
) -> Loaded:
    """Load a model by its hub id or folder; nano if there is no name, and say so.

    Args:
        name: hub id or folder; LLaVA-NeXT's own layout is mapped while it is read.
        where: as in ``--device-map``; see `sttm.checkpoints.Placement`.
        dtype: as in ``--dtype``; None for the checkpoint's.
        newline: as in ``--newline``; see `sttm.checkpoints.load`.

    Raises:
        ConfigError: no such model or device, or the hub cannot be reached.
        UnsupportedModelError: a model of another kind.
    """
    if name is None:
        note("no --model given: nano answers, the bundled model, which knows only its own clips.")
        _refuse_newline(newline)
        return load_nano(dtype)
    from sttm.checkpoints import Placement

    placement = Placement(where)
    if check_supported(name):
        note(
            f"{name} is in LLaVA-NeXT's layout: mapped while it is read; newline tokens: "
            f"{newline or 'no_token'}. `sttm convert` does it once, and has options."
        )
    return _load(name, placement, dtype, newline)


def load_pair(
    name: str | None,
    where: str | None = None,
    dtype: str | None = None,
    newline: str | None = None,
) -> tuple[Any, Any]:
    """Load a model and its processor without a note; for worker processes.

    Args and raises: see `load_model`.
    """
    from sttm.checkpoints import Placement
    from sttm.models import list_models

    list_models()  # a plugin may tell transformers about its model
    loaded = load_nano(dtype) if name is None else _load(name, Placement(where), dtype, newline)
    return loaded.model, loaded.processor


def load_nano(dtype: str | None = None) -> Loaded:
    """Load the bundled model.

    Raises:
        ConfigError: it was not installed.
    """
    import torch
    from transformers.utils import logging

    from sttm.nano.model import NANO_LAYER, NANO_POSITIONS, load

    logging.disable_progress_bar()
    try:
        model, processor = load(getattr(torch, dtype or "float32"))
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    return Loaded(BUNDLED, model, processor, NANO_LAYER, NANO_POSITIONS)


def check_supported(name: str) -> bool:
    """Look at the configuration first: it is small, the weights may be many gigabytes.

    Returns:
        whether it is in LLaVA-NeXT's own layout.
    """
    from transformers import AutoConfig

    from sttm.checkpoints.loading import raw_config
    from sttm.checkpoints.source import is_llava_next
    from sttm.models import list_models

    known = sorted(kind for family in list_models() for kind in family.model_types)
    try:
        if is_llava_next(raw_config(name)):
            return True
        kind = AutoConfig.from_pretrained(name).model_type
    except ConfigError as error:
        raise ConfigError(f"--model: {error}") from error
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"--model: got {name!r}, which this transformers cannot read ({first_line(error)}). "
            "See `sttm models` for what is supported."
        ) from error
    if kind not in known:
        raise UnsupportedModelError(
            f"--model: got {name!r} of type {kind!r}, expected one of: {', '.join(known)}. "
            "See `sttm models`."
        )
    return False


def refuse_for_nano(context: typer.Context, model: str | None) -> None:
    """Refuse options about a model that nano does not have.

    Args:
        context: of the command.
        model: as in ``--model``; None for nano.

    Raises:
        ConfigError: one of them was given without a model.
    """
    if model is None:
        why = "nano runs on the CPU, and its newline token has its place"
        refuse_idle(context, ["device_map", "newline"], "nano (no --model)", why)


def _refuse_newline(newline: str | None) -> None:
    if newline is not None:
        raise ConfigError(
            f"--newline: got {newline!r} without --model, expected it with a LLaVA model only: "
            "nano has no newline tokens to place. Leave it out."
        )


def _load(name: str, placement: "Placement", dtype: str | None, newline: str | None) -> Loaded:
    from sttm.checkpoints import load

    try:
        model, processor = load(name, placement=placement, dtype=dtype or "auto", newline=newline)
    except ConfigError as error:
        raise ConfigError(f"--model: {error}") from error
    return Loaded(name, model, processor)
