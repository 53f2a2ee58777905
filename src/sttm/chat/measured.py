"""What a model is really fed, as measured at its text model, against what it was to be fed."""

import copy
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.generation import GenerationMode

from sttm.errors import ConfigError, ContextWarning
from sttm.models import Adapter
from sttm.models import transformers_api as api


class Meter:
    """Counts the tokens that enter a text model while the ``with`` block runs.

    Args:
        adapter: of the model.

    Attributes:
        tokens: per row, of each forward.
        positions: the rotary positions of each forward, ``(B, N)`` or ``(axes, B, N)``.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.tokens: list[int] = []
        self.positions: list[torch.Tensor] = []
        self._text, self._rotary = adapter.text, adapter.text.rotary_emb
        self._of_text = api.Signature.of(self._text)
        self._of_rotary = api.Signature.of(self._rotary)
        self._handles: list[Any] = []

    def __enter__(self) -> "Meter":
        self._thread = threading.get_ident()  # others may call the model meanwhile
        for module, hook in ((self._text, self._on_text), (self._rotary, self._on_rotary)):
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def all_positions(self) -> list[torch.Tensor]:
        """Return ``positions``, one for each forward.

        Raises:
            IncompatibleTransformersError: a forward did not ask the rotary embedding.
        """
        if len(self.positions) != len(self.tokens) or not self.tokens:
            raise api.mismatch(
                f"{len(self.tokens)} forward passes with {len(self.positions)} calls of "
                f"{type(self._rotary).__name__}",
                "one each",
            )
        return self.positions

    def _on_text(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        call = self._of_text.bind(args, kwargs)
        given = [call.get(name) for name in (api.INPUT_IDS, api.INPUTS_EMBEDS)]  # one or the other
        found = next((value for value in given if value is not None), None)
        if found is None:
            raise api.mismatch(f"a call of {self._of_text.name} without tokens", api.INPUTS_EMBEDS)
        self.tokens.append(found.shape[1])

    def _on_rotary(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        if len(self.positions) < len(self.tokens):  # once per forward
            call = self._of_rotary.bind(args, kwargs)
            self.positions.append(self._of_rotary.given(call, self._of_rotary.names[1]))


def generation_config(
    model: Any, arguments: Mapping[str, Any]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """Return the settings that ``generate`` makes of its arguments, and the other arguments."""
    others = dict(arguments)
    config = copy.deepcopy(others.pop("generation_config", None) or model.generation_config)
    return config, config.update(**others)


def warn_beyond_context(model: Any, positions: int, what: str) -> None:
    """Warn before a model is given more positions than its configuration allows.

    Args:
        model: a transformers model.
        positions: that it will have been given.
        what: needs them, for the message.
    """
    # Absent in text models whose positions have no end.
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and positions > most:
        warnings.warn(
            f"{what} needs {positions} positions, but the model was made for {most}: it may answer "
            "nonsense. Sample fewer frames, or ask for a shorter answer.",
            ContextWarning,
            stacklevel=4,
        )


def _largest_position(cache: Any, positions: torch.Tensor) -> int:
    """Return the largest position that a layer is given: all are shifted if the first one is."""
    shift = getattr(cache.layers[0], "shift", None)  # absent in layers that nothing has reduced
    return int(positions.max()) - (0 if shift is None else int(shift.min()))


def sequences(output: Any) -> torch.Tensor:
    """Return the ids ``(rows, n)`` in what ``generate`` gave."""
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output.sequences
    return found


def _check_positions(meter: Meter, wanted: torch.Tensor) -> None:
    """Check that tokens had the positions that were asked for, and new ones those that follow.

    Args:
        meter: of all forward passes.
        wanted: ``(B, n)`` of the question.
    """
    seen = torch.cat([each.cpu() for each in meter.all_positions()], -1)
    following = torch.arange(1, 1 + seen.shape[-1] - wanted.shape[1])
    wanted = torch.cat([wanted, wanted[:, -1:] + following], 1)
    wanted = wanted.repeat_interleave(max(1, seen.shape[-2] // len(wanted)), 0)
    if bool((seen != wanted).any()):
        raise api.mismatch(
            f"a question and answer at positions {seen[..., 0, :].flatten()[:8].tolist()}...",
            f"{wanted[0, :8].tolist()}... and on",
        )


@contextmanager
def _default_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Replace a model's own settings, which ``generate`` puts where an argument is None."""
    before, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = before


def generate_behind(
    model: Any,
    adapter: Adapter,
    cache: Any,
    *,
    ids: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    known: int,
    **arguments: Any,
) -> tuple[Any, int]:
    """Generate behind what a cache holds, and check that only the rest was fed to the model.

    Args:
        model: what a video in the cache needs is attached to it.
        adapter: of the model.
        cache: holds the first ``known`` tokens; grows.
        ids: ``(B, n)`` the whole prompts.
        mask: ``(B, n)`` 1 for real tokens, 0 for padding.
        positions: ``(B, n)`` rotary positions.
        known: tokens that the cache has seen.
        arguments: of ``generate``.

    Returns:
        what ``generate`` gave, ``(rows, n + new)`` ids or its record of them, and the tokens per
        row that were fed before the first new one.

    Raises:
        IncompatibleTransformersError: more or less was fed than the rest of the prompt, or at other
            positions.
        ConfigError: assisted decoding, or another cache.
    """
    config, others = generation_config(adapter.model, arguments)
    device = adapter.model.device
    if arguments.get("cache_implementation") is not None:  # optional
        raise ConfigError(
            f"got cache_implementation={arguments['cache_implementation']!r}, expected none: a "
            "watched video is in a cache already."
        )
    config.cache_implementation = None  # the model's default is for prompts without a cache
    mode = config.get_generation_mode(others.get("assistant_model"))  # most have no assistant
    if mode == GenerationMode.ASSISTED_GENERATION:
        raise ConfigError(
            "got an assistant model or prompt lookup for a question about a watched video, "
            "expected neither: they feed guesses along with the question. Leave them out (also of "
            "the model's generation_config), or use attach() with generate()."
        )
    # Without a number of its own, generate() stops at a total length.
    longest = config.max_new_tokens or max(0, (config.max_length or 0) - ids.shape[1])
    last = _largest_position(cache, positions) + 1 + longest
    warn_beyond_context(adapter.model, last, f"the question with an answer of {longest} tokens")
    with Meter(adapter) as meter, _default_config(adapter.model, config), torch.no_grad():
        out = model.generate(
            **api.prompt_arguments(ids.to(device), mask.to(device), positions.to(device)),
            **api.cache_argument(model, cache),
            generation_config=config,
            **others,
        )
    wanted = ids.shape[1] - known
    chunks = 1 if config.prefill_chunk_size is None else -(-wanted // config.prefill_chunk_size)
    fed = sum(meter.tokens[:chunks])
    if fed != wanted:
        raise api.mismatch(f"a question of {wanted} tokens for which {fed} were fed", f"{wanted}")
    _check_positions(meter, positions[:, known:])
    return out, fed


@torch.no_grad()
def forward_behind(
    model: Any,
    adapter: Adapter,
    cache: Any,
    *,
    ids: torch.Tensor,
    positions: torch.Tensor,
    known: int,
    last: int,
) -> torch.Tensor:
    """Feed the rest of some tokens behind what a cache holds, and check that only it was fed.

    Args:
        model: what a video in the cache needs is attached to it.
        adapter: of the model.
        cache: holds the first ``known`` tokens; grows.
        ids: ``(B, n)`` all tokens.
        positions: ``(B, n)`` rotary positions.
        known: tokens that the cache has seen; less than ``n``.
        last: how many of the last tokens to give logits behind; at most ``n - known``.

    Returns:
        ``(B, last, V)`` float32 logits.

    Raises:
        IncompatibleTransformersError: more or less was fed, or at other positions.
    """
    device, wanted = adapter.model.device, positions[:, known:]
    what = f"a question with an answer of {ids.shape[1] - known} tokens"
    warn_beyond_context(adapter.model, _largest_position(cache, positions) + 1, what)
    mask = torch.ones_like(ids).to(device)
    with Meter(adapter) as meter:
        out = model(
            **api.prompt_arguments(ids[:, known:].to(device), mask, wanted.to(device)),
            **api.cache_argument(model, cache),
            use_cache=True,
            logits_to_keep=last,
        )
    if meter.tokens != [wanted.shape[1]]:
        raise api.mismatch(f"{wanted.shape[1]} tokens of which {meter.tokens} were fed", "all once")
    _check_positions(meter, wanted)
    logits: torch.Tensor = out.logits
    return logits[:, -last:].float()


@dataclass(frozen=True, eq=False)
class CachedPrompt:
    """The beginning of a prompt that was fed before.

    Args:
        cache: holds it; grows.
        known: its tokens.
        position: of the next token.
    """

    cache: Any
    known: int
    position: int


@torch.no_grad()
def prefill_prompt(
    model: Any,
    adapter: Adapter,
    processor: Any,
    inputs: Mapping[str, torch.Tensor],
    features: Any,
    behind: CachedPrompt | None = None,
) -> tuple[Any, int]:
    """Fill a cache with a prompt, and check that all of it was fed to the model, once.

    Args:
        model: what reduces the prompt's videos is in force on it.
        adapter: of the model.
        processor: that made the inputs, for messages.
        inputs: the model's arguments by name, without pixels.
        features: what its encoder gave; None for text alone.
        behind: what is in a cache already; None begins with a fresh one.

    Returns:
        the cache, and the position of the next token.

    Raises:
        IncompatibleTransformersError: the model was fed something else than the prompt, or the
            processor gave a tensor that nothing takes.
    """
    arguments = _accepted(adapter, processor, inputs)
    if features is not None:
        arguments |= api.features_argument(adapter.modality, features)
    cache, known, wanted = DynamicCache(config=adapter.config), 0, None
    length = inputs["input_ids"].shape[1]
    if behind is not None:
        cache, known = behind.cache, behind.known
        wanted = _own_positions(model, adapter, arguments) + behind.position
        arguments |= api.prompt_arguments(
            inputs["input_ids"], wanted.new_ones(1, known + length), wanted
        )
    warn_beyond_context(
        adapter.model, known + length, f"the video's prompt of {known + length} tokens"
    )
    with Meter(adapter) as meter:
        model(**arguments, **api.cache_argument(model, cache), use_cache=True, logits_to_keep=1)
    if meter.tokens != [length] or cache.get_seq_length() != known + length:
        raise api.mismatch(
            f"a prompt of {length} tokens behind {known}, of which {meter.tokens} were fed to the "
            f"decoder and {cache.get_seq_length()} are in the cache",
            "all of them, once",
        )
    positions = meter.all_positions()[-1]
    if wanted is not None and not torch.equal(positions.expand_as(wanted), wanted):
        raise api.mismatch("other positions than a video behind others was given", "those")
    # The prefix ends with text, whose positions are equal on all axes.
    return cache, int(positions[..., -1].max()) + 1


class _Seen(Exception):  # noqa: N818 (no error: ends a forward pass whose rest nobody needs)
    """The positions of a prompt are known."""


def _own_positions(model: Any, adapter: Adapter, arguments: Mapping[str, Any]) -> torch.Tensor:
    """Return the positions ``(B, N)`` or ``(axes, B, N)`` that a model gives a prompt by itself.

    They are read where the rotary embedding is asked for them; the layers do not run.
    """
    thread = threading.get_ident()

    def stop(*_: Any) -> None:
        if threading.get_ident() == thread:  # others may call the model meanwhile
            raise _Seen

    with Meter(adapter) as meter:
        handle = adapter.text.rotary_emb.register_forward_pre_hook(stop)
        try:
            model(**arguments, use_cache=False)
        except _Seen:
            pass
        finally:
            handle.remove()
    return meter.all_positions()[-1]


def _accepted(
    adapter: Adapter, processor: Any, inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return what the model takes of a processor's tensors; the rest is its encoder's."""
    models = api.Signature.of(adapter.model), api.Signature.of(adapter.base)
    accepted = {n: v for n, v in inputs.items() if any(n in each for each in models)}
    encoder = api.Signature.of(adapter.base, adapter.encoder)
    unread = sorted(n for n in inputs.keys() - accepted.keys() if n not in encoder)
    if unread:
        raise api.mismatch(
            f"{', '.join(unread)} from {type(processor).__name__}",
            f"what {models[0].name}() or {adapter.encoder}() takes",
        )
    return accepted
