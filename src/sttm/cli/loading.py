"""Load the model that a command runs: nano, or one that transformers finds."""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sttm.cli.options import Reduction
from sttm.cli.output import note
from sttm.errors import ConfigError, UnsupportedModelError

if TYPE_CHECKING:
    from sttm.chat import VideoChat

BUNDLED = "nano (bundled)"
_NOT_FOUND = "expected the id of a model on the Hugging Face hub, or a folder"


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

    def chat(self, reduction: Reduction) -> "VideoChat":
        """Begin to chat with this model."""
        from sttm.chat import VideoChat

        layer = self.layer if reduction.layer is None else reduction.layer
        if reduction.method is None:
            layer = None
        chat = VideoChat(
            self.model, self.processor, reduction.method, layer=layer, positions=self.positions
        )
        misfit = reduction.misfit(self.name, chat.layer)
        if misfit:
            note(misfit)
        return chat


def load_model(name: str | None) -> Loaded:
    """Load a model by its hub id or folder; nano if there is no name, and say so.

    Raises:
        ConfigError: no such model, or the hub cannot be reached.
        UnsupportedModelError: a model of another kind.
    """
    if name is None:
        note("no --model given: nano answers, the bundled model, which knows only its own clips.")
        return load_nano()
    _check_supported(name)
    return _load(name)


def load_pair(name: str | None) -> tuple[Any, Any]:
    """Load a model and its processor without a note; for worker processes.

    Raises: see `load_model`.
    """
    loaded = load_nano() if name is None else _load(name)
    return loaded.model, loaded.processor


def load_nano() -> Loaded:
    """Load the bundled model.

    Raises: ConfigError: it was not installed.
    """
    from transformers.utils import logging

    from sttm.nano.model import NANO_LAYER, NANO_POSITIONS, load

    logging.disable_progress_bar()
    try:
        model, processor = load()
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from error
    return Loaded(BUNDLED, model, processor, NANO_LAYER, NANO_POSITIONS)


def _check_supported(name: str) -> None:
    """Look at the configuration first: it is small, the weights may be many gigabytes."""
    from transformers import AutoConfig

    from sttm.models import list_models

    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except OSError as error:
        raise ConfigError(
            f"--model: got {name!r}, {_NOT_FOUND}. Check the spelling, the network, and "
            f"HF_HUB_OFFLINE; private models need `hf auth login`. ({_first_line(error)})"
        ) from error
    except ValueError as error:
        raise UnsupportedModelError(
            f"--model: got {name!r}, which this transformers cannot read ({_first_line(error)}). "
            "See `sttm models` for what is supported."
        ) from error
    known = sorted(kind for family in list_models() for kind in family.model_types)
    if kind not in known:
        raise UnsupportedModelError(
            f"--model: got {name!r} of type {kind!r}, expected one of: {', '.join(known)}. "
            "See `sttm models`."
        )


def _load(name: str) -> Loaded:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    placement = {}
    if torch.cuda.is_available() and importlib.util.find_spec("accelerate") is not None:
        placement = {"device_map": "auto"}
    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto", **placement)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"--model: got {name!r} that cannot be loaded ({_first_line(error)}). Expected "
            "configuration, processor and weights in it, and what they need installed."
        ) from error
    if torch.cuda.is_available() and not placement:
        model = model.to("cuda")
    return Loaded(name, model.eval(), processor)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
