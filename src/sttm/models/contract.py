"""What the hooks rely on, checked: in signatures before a forward, by counting behind it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import Cache

from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter
from sttm.models.cache import ReducedLayer, check_layer_classes


@dataclass(frozen=True)
class Signatures:
    """The functions that a forward pass goes through.

    Args:
        base: of the multimodal model.
        text: of its text model.
        layers: of the decoder layers.
        rotary: of the rotary embedding.
        encoder: of the method that encodes videos.
        masks: builds the masks of each type of decoder layer that has one.
    """

    base: api.Signature
    text: api.Signature
    layers: tuple[api.Signature, ...]
    rotary: api.Signature
    encoder: api.Signature
    masks: dict[str, api.MaskFunction]


def read_signatures(adapter: Adapter) -> Signatures:
    """Read the signatures of everything that is hooked, and check them.

    Raises:
        IncompatibleTransformersError: a name that the hooks rely on is not there.
    """
    pixels, encoder = api.PIXELS[adapter.modality], api.Signature.of(adapter.base, adapter.encoder)
    for model in (adapter.model, adapter.base):
        entry = api.Signature.of(model).require(
            api.INPUT_IDS, api.ATTENTION_MASK, api.POSITION_IDS, api.ENCODER_OUTPUTS, pixels
        )
        entry.cache_name()
    text = api.Signature.of(adapter.text).require(api.INPUTS_EMBEDS, api.ATTENTION_MASK)
    text.cache_name()
    if adapter.deepstack:
        text.require(api.VISUAL_MASK, api.DEEPSTACK)
    rotary = api.Signature.of(adapter.text.rotary_emb)
    if len(rotary.names) < 2:
        raise api.mismatch(str(rotary), "the hidden states and the positions")
    check_layer_classes()
    masks = {kind: api.mask_function(kind) for kind in sorted(set(adapter.layer_types))}
    return Signatures(
        api.Signature.of(adapter.base),
        text,
        tuple(_layer_signatures(adapter.text.layers)),
        rotary,
        encoder.require(pixels, *adapter.encoder_arguments),
        {kind: build for kind, build in masks.items() if build is not None},
    )


def _layer_signatures(layers: Iterable[Any]) -> Iterable[api.Signature]:
    read: dict[Any, api.Signature] = {}
    for layer in layers:
        own = vars(layer).get("forward", type(layer))  # most layers share their class's
        if own not in read:
            read[own] = api.Signature.of(layer).require(
                api.ATTENTION_MASK, api.POSITION_EMBEDDINGS, api.POSITION_IDS
            )
            read[own].cache_name()
        yield read[own]


def check_counts(
    adapter: Adapter, cache: Cache, *, first: int, seen: int, held: int, exact: bool
) -> None:
    """Check how many tokens the layers of a cache count behind a forward pass.

    Args:
        adapter: the family.
        cache: that the pass wrote to.
        first: the layer in front of which videos are reduced.
        seen: tokens that every layer must have seen.
        held: entries that the layers from ``first`` on must hold.
        exact: look at preallocated layers too, whose counts may lie on a GPU.

    Raises:
        IncompatibleTransformersError: a layer counts something else.
    """
    for index, kind in enumerate(adapter.layer_types):
        if kind in api.RECURRENT:
            continue
        if index >= len(cache.layers):
            raise api.mismatch(f"a cache of {len(cache.layers)} layers", f"a layer {index}")
        layer = cache.layers[index]
        if layer.is_compileable and not exact:
            continue
        if int(layer.get_seq_length()) != seen:
            counted = int(layer.get_seq_length())
            raise api.mismatch(f"a cache whose layer {index} counts {counted} tokens", f"{seen}")
        if index < first:
            continue
        if not isinstance(layer, ReducedLayer) or layer.num_entries() != held:
            count = layer.num_entries() if isinstance(layer, ReducedLayer) else "all its"
            raise api.mismatch(
                f"a cache whose layer {index} holds {count} entries behind the reduction in front "
                f"of layer {first}",
                f"{held}",
            )
