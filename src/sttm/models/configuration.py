"""How the videos of a model are reduced: decided once, at attach."""

from dataclasses import dataclass
from typing import get_args

from sttm.errors import ConfigError
from sttm.methods.base import DecodePruning, Method, check_method
from sttm.models.adapter import Adapter, Positions
from sttm.models.transformers_api import FULL_ATTENTION

_POLICIES = ("auto", *get_args(Positions))


@dataclass(frozen=True)
class ReductionConfig:
    """How videos are reduced.

    Args:
        method: decides which tokens become one.
        layer: the decoder layer (0-based) in front of which it happens.
        positions: the position policy.
        prompt_score_layer: the decoder layer whose attention the method reads; None if it reads
            none.
        decode_score_layer: the decoder layer that decides what the method hides while answering;
            None if it hides nothing.
    """

    method: Method
    layer: int
    positions: Positions
    prompt_score_layer: int | None = None
    decode_score_layer: int | None = None

    @classmethod
    def of(
        cls, adapter: Adapter, method: Method, layer: int | None = None, positions: str = "auto"
    ) -> "ReductionConfig":
        """Check what a user asks for, and fill in what the family does best.

        Args:
            adapter: the model's family.
            method: see :func:`sttm.attach`.
            layer: see :func:`sttm.attach`.
            positions: see :func:`sttm.attach`.

        Raises:
            ConfigError: no such method, layer or policy.
            UnsupportedModelError: the method reads an attention that this model does not have.
        """
        check_method(method)
        layers = len(adapter.text.layers)
        if layer is None:
            wanted = adapter.layer if method.default_layer is None else method.default_layer
            layer = min(wanted, layers - 1)
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < layers:
            raise ConfigError(f"layer: got {layer!r}, expected an integer from 0 to {layers - 1}.")
        if positions not in _POLICIES:
            raise ConfigError(
                f"positions: got {positions!r}, expected one of {', '.join(_POLICIES)}."
            )
        policy = adapter.positions if positions == "auto" else positions
        reads, pruning = "prompt_attention" in method.requires, method.decode_pruning
        return cls(
            method,
            layer,
            policy,  # type: ignore[arg-type]
            adapter.attention_layer(layer) if reads else None,
            None if pruning is None else _decode_score_layer(adapter, layer, pruning),
        )

    @property
    def needs_tower(self) -> bool:
        """Whether the method reads the attention of the vision tower."""
        return "tower_attention" in self.method.requires


def _decode_score_layer(adapter: Adapter, layer: int, pruning: DecodePruning) -> int:
    """Return the layer that decides what the layers from ``pruning.layer`` on see."""
    layers = len(adapter.text.layers)
    if layer < pruning.layer < layers:
        scores = adapter.attention_layer(pruning.layer)
        if scores >= layer and adapter.layer_types[scores] == FULL_ATTENTION:
            return scores
    raise ConfigError(
        f"decode_layer: got {pruning.layer} with a reduction in front of layer {layer}, expected "
        f"an integer from {layer + 1} to {layers - 1} behind a full-attention layer that is not "
        f"below layer {layer}. Attach at a lower layer, or choose another decode_layer."
    )
