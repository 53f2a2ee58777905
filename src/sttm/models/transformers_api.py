"""What transformers calls things, looked up where it says so.

The library renames its internals from one release to the next. Every such name that the hooks and
the chat depend on stands in this file and in no other (``tests/models/test_names.py``). A cache is
known by its type, wherever it travels. All other names are looked up in the signature of the
function that takes them, before anything runs, and are an error when they are not there. Versions
are never compared to find out what something is called.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

import torch
from transformers import PreTrainedModel, masking_utils
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling

from sttm.errors import IncompatibleTransformersError, UnsupportedModelError
from sttm.models.versions import newest_tested, tested_versions

Modality = Literal["video", "image"]

# Arguments of the models, of their text models and of the text models' layers.
INPUT_IDS = "input_ids"
INPUTS_EMBEDS = "inputs_embeds"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"
POSITION_EMBEDDINGS = "position_embeddings"
ENCODER_OUTPUTS = "mm_encoder_outputs"
VISUAL_MASK = "visual_pos_masks"
DEEPSTACK = "deepstack_visual_embeds"
# Arguments of the encoders.
PIXELS: Mapping[Modality, str] = {"video": "pixel_values_videos", "image": "pixel_values"}
VIDEO_GRID = "video_grid_thw"
ROPE_INDEX = "get_rope_index"
CHUNK_LENGTHS = "cu_seqlens"
# Fields of outputs.
LAST_HIDDEN_STATE = "last_hidden_state"
POOLED = "pooler_output"
# Types of decoder layers, and of those the ones that hold a state, not one entry per token.
FULL_ATTENTION = "full_attention"
SLIDING_ATTENTION = "sliding_attention"
RECURRENT = ("linear_attention", "conv")

# Given where several prompts are packed into one row.
_PACKED = ("cu_seq_lens_q", CHUNK_LENGTHS)
_MASK_ARGUMENTS = ("config", INPUTS_EMBEDS, ATTENTION_MASK)
_MASK_FACTORIES = "LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING"
_LAYER_INDEX = "layer_idx"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def mismatch(got: str, expected: str) -> IncompatibleTransformersError:
    """Build the error for something that transformers does otherwise than the hooks expect.

    Args:
        got: what was found.
        expected: what the hooks rely on.
    """
    return IncompatibleTransformersError(
        f"got {got}, expected {expected}. transformers {version('transformers')}, or something "
        "that wraps this model, does not do what sttm's hooks rely on. sttm was tested with "
        f"{', '.join(tested_versions())}: pip install 'transformers=={newest_tested()}', or "
        "report this."
    )


class Signature:
    """The parameters of a function of transformers that is hooked or called.

    Args:
        function: the function.
        name: what to call it in messages, e.g. "Qwen2DecoderLayer.forward".

    Attributes:
        names: the parameters that can be given by position, in order.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self._parameters = dict(inspect.signature(function).parameters)
        self.names = tuple(n for n, p in self._parameters.items() if p.kind in _POSITIONAL)

    @classmethod
    def of(cls, owner: Any, method: str = "forward") -> "Signature":
        """Read the signature of a method.

        A method that takes any arguments says nothing; then those that it overrides are read, of
        its class and of the classes below, and then that of the only module in the owner, which it
        wraps (``torch.compile``, FSDP).

        Raises:
            IncompatibleTransformersError: there is no such method.
        """
        kind = type(owner)
        function = getattr(owner, method, None)
        if not callable(function):
            raise mismatch(f"{kind.__name__} without {method}()", "it")
        name = f"{kind.__name__}.{method}"
        overridden = (vars(base)[method] for base in kind.__mro__ if method in vars(base))
        bound = (own.__get__(owner) for own in overridden if hasattr(own, "__get__"))
        for each in (function, *bound):
            found = cls(each, name)
            if not all(p.kind in _OPEN for p in found._parameters.values()):
                return found
        inner = list(owner.children()) if isinstance(owner, torch.nn.Module) else []
        return cls.of(inner[0], method) if len(inner) == 1 else cls(function, name)

    def __contains__(self, name: str) -> bool:
        return name in self._parameters

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self._parameters)})"

    def require(self, *names: str) -> "Signature":
        """Return itself if all ``names`` are parameters.

        Raises:
            IncompatibleTransformersError: one is not.
        """
        missing = [name for name in names if name not in self._parameters]
        if missing:
            raise mismatch(
                f"{self.name}() without a parameter {' and '.join(missing)}",
                f"it among {', '.join(self._parameters)}",
            )
        return self

    def cache_name(self) -> str:
        """Return the name of the parameter that takes a KV cache, known by its annotation.

        Raises:
            IncompatibleTransformersError: there is no such parameter, or more than one.
        """
        found = [n for n, p in self._parameters.items() if _means_cache(p.annotation)]
        if len(found) != 1:
            raise mismatch(str(self), "one parameter annotated as a Cache")
        return found[0]

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Name the arguments that a call gave.

        Raises:
            IncompatibleTransformersError: it gave more by position than have names.
        """
        if len(args) > len(self.names):
            raise mismatch(f"a call with {len(args)} arguments by position", str(self))
        return {**dict(zip(self.names, args)), **kwargs}

    def given(self, call: Mapping[str, Any], name: str) -> Any:
        """Return an argument that transformers itself always gives.

        Raises:
            IncompatibleTransformersError: the call lacks it.
        """
        if name not in call:
            raise mismatch(f"a call of {self.name} with only {', '.join(call)}", name)
        return call[name]


def _means_cache(annotation: Any) -> bool:
    if isinstance(annotation, str):  # a module with postponed annotations
        return re.search(r"Cache\b", annotation) is not None
    parts = (annotation, *get_args(annotation))
    return any(isinstance(part, type) and issubclass(part, Cache) for part in parts)


def cache_in(values: Iterable[Any]) -> Cache | None:
    """Return the KV cache among arguments or outputs, found by its type.

    None if there is none, which is no error: with ``use_cache=False`` there is none.
    """
    for value in values:
        if isinstance(value, Cache):
            return value
    return None


def cache_of(output: Any) -> Cache | None:
    """Return the KV cache in a model's output, a tuple or a ``ModelOutput``; None if none is.

    Raises:
        IncompatibleTransformersError: the output is something else.
    """
    if not isinstance(output, tuple | Mapping):
        raise mismatch(f"{type(output).__name__} as a text model's output", "a ModelOutput")
    return cache_in(output if isinstance(output, tuple) else output.values())


def cache_argument(model: Any, cache: Cache) -> dict[str, Cache]:
    """Return ``cache`` under the name by which ``model`` and its ``generate()`` take it.

    Raises:
        IncompatibleTransformersError: the model's ``forward`` takes no cache.
    """
    return {Signature.of(pretrained(model)).cache_name(): cache}


def prompt_arguments(
    ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return a prompt as arguments of a model and of its ``generate()``.

    Args:
        ids: ``(B, N)`` int64.
        mask: ``(B, N)`` 1 for real tokens, 0 for padding.
        positions: ``(B, N)`` or ``(axes, B, N)`` rotary positions.
    """
    return {INPUT_IDS: ids, ATTENTION_MASK: mask, POSITION_IDS: positions}


@dataclass
class EncoderOutput(BaseModelOutputWithPooling):  # type: ignore[misc]
    """What language models read of an encoder's output: the features, of several layers in some.

    A tower's own states, which are larger and which nobody reads, are left out.
    """

    deepstack_features: Any = None


ENCODER_FIELDS = (POOLED, "deepstack_features")


def features_argument(modality: Modality, features: Any) -> dict[str, Any]:
    """Return an encoder's output as the argument by which models and ``generate()`` take it."""
    return {ENCODER_OUTPUTS: {modality: features}}


def handed_features(call: Mapping[str, Any], modality: Modality) -> Any:
    """Return the encoder's output that a call of the model was given.

    None where this call encodes by itself or carries text alone: the argument is optional.

    Raises:
        IncompatibleTransformersError: they come in something else than a dict by modality.
    """
    given = call.get(ENCODER_OUTPUTS) or {}
    if not isinstance(given, Mapping):
        raise mismatch(f"{ENCODER_OUTPUTS} as {type(given).__name__}", "a dict by modality")
    return given.get(modality)


def rope_index(base: Any, arguments: Mapping[str, Any]) -> torch.Tensor:
    """Return the positions ``(axes, B, N)`` that a model with axes gives a prompt by itself.

    Args:
        base: the model without its head.
        arguments: of a call about the prompt, by name; those that say nothing of it are left out.

    Raises:
        IncompatibleTransformersError: it does not tell, or not from these arguments.
    """
    signature = Signature.of(base, ROPE_INDEX)
    given = {name: value for name, value in arguments.items() if name in signature}
    try:
        positions: torch.Tensor = getattr(base, ROPE_INDEX)(**given)[0]
    except TypeError as error:
        raise mismatch(f"{signature} that does not take {', '.join(given)}", "these") from error
    return positions


def is_packed(call: Mapping[str, Any]) -> bool:
    """Whether a decoder layer's call holds several prompts in one row."""
    return any(call.get(name) is not None for name in _PACKED)  # optional: for packed rows only


class FedEmbeddings(torch.nn.Module):
    """Stands where a text model stood, and gives back the embeddings that it is fed.

    Args:
        text: the text model.

    Attributes:
        positions: that came with the latest; None if the text model was to count by itself.
        visual: ``(B, N)`` bool, the tokens that DeepStack features belong to; None without any.
        deepstack: ``(tokens, C)`` of each level.
    """

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.get_input_embeddings = text.get_input_embeddings
        self.positions: torch.Tensor | None = None
        self.visual: torch.Tensor | None = None
        self.deepstack: list[torch.Tensor] = []

    def forward(self, **call: Any) -> Any:
        """Return the embeddings as the text model's output."""
        self.positions, self.visual = call.get(POSITION_IDS), call.get(VISUAL_MASK)
        self.deepstack = list(call.get(DEEPSTACK) or ())
        return BaseModelOutputWithPast(last_hidden_state=call[INPUTS_EMBEDS])


def text_hidden(output: Any) -> torch.Tensor:
    """Return the hidden states ``(B, N, C)`` in a text model's output.

    Args:
        output: a tuple or a ``ModelOutput``.

    Raises:
        IncompatibleTransformersError: they are not there.
    """
    is_tuple = isinstance(output, tuple)
    if not is_tuple and LAST_HIDDEN_STATE not in output:
        raise mismatch(f"a text model's output with {', '.join(output)}", LAST_HIDDEN_STATE)
    hidden: torch.Tensor = output[0] if is_tuple else output[LAST_HIDDEN_STATE]
    return hidden


def with_text_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """Return the output with these hidden states in place of :func:`text_hidden`."""
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    output[LAST_HIDDEN_STATE] = hidden
    return output


@dataclass(frozen=True)
class MaskFunction:
    """transformers' own function that builds the masks of one type of decoder layer.

    Args:
        function: the function.
        cache_name: the parameter that takes the cache.
    """

    function: Callable[..., Any]
    cache_name: str

    def __call__(
        self,
        config: Any,
        hidden: torch.Tensor,
        valid: torch.Tensor | None,
        cache: Cache | None,
        index: int,
    ) -> Any:
        """Build the mask of one layer.

        Args:
            config: the text configuration.
            hidden: ``(B, L, C)``.
            valid: ``(B, entries)`` bool, False for padding; None if there is none.
            cache: the cache, if there is one.
            index: of the layer.
        """
        values = dict(zip(_MASK_ARGUMENTS, (config, hidden, valid)))
        return self.function(**values, **{self.cache_name: cache, _LAYER_INDEX: index})


def full_mask(mask: Any) -> Any:
    """Return the mask of full attention, where there is a dict with one for each type of layer.

    Raises:
        IncompatibleTransformersError: the dict has none.
    """
    if not isinstance(mask, dict):
        return mask
    if FULL_ATTENTION not in mask:
        raise mismatch(f"masks of {', '.join(map(str, mask)) or 'no layers'}", FULL_ATTENTION)
    return mask[FULL_ATTENTION]


def mask_function(kind: str) -> MaskFunction | None:
    """Find what builds the masks of one type of decoder layer; None if it has no mask of its own.

    Args:
        kind: the type in the configuration, e.g. "full_attention".

    Raises:
        IncompatibleTransformersError: the library's function is not there, or takes something else.
    """
    if not hasattr(masking_utils, _MASK_FACTORIES):
        raise mismatch("transformers.masking_utils without it", _MASK_FACTORIES)
    factory = getattr(masking_utils, _MASK_FACTORIES).get(kind)
    if factory is None or isinstance(factory, dict):  # unknown, or two masks in one layer
        return None
    signature = Signature(factory, factory.__name__).require(*_MASK_ARGUMENTS)
    if kind not in RECURRENT:
        signature.require(_LAYER_INDEX)
    return MaskFunction(factory, signature.cache_name())


def pretrained(model: Any) -> Any:
    """Return the transformers model in a wrapper such as PEFT's; ``model`` itself if it is none.

    Wrappers may call ``forward`` past the hooks of the model they hold, but never past those of
    its inner modules.

    Raises:
        UnsupportedModelError: there are several in it.
    """
    if isinstance(model, PreTrainedModel) or not isinstance(model, torch.nn.Module):
        return model
    found = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    inside = {id(part) for one in found for part in one.modules() if part is not one}
    outermost = [one for one in found if id(one) not in inside]
    if len(outermost) > 1:
        names = ", ".join(type(one).__name__ for one in outermost)
        raise UnsupportedModelError(
            f"got {type(model).__name__} with {len(outermost)} models in it ({names}), expected "
            "one. Attach to the one that is to be reduced."
        )
    return outermost[0] if outermost else model
