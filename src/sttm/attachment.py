"""Attach a reduction method to a transformers model, and take it off again without a trace."""

import contextlib
import functools
import sys
import threading
import weakref
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from transformers.utils import ModelOutput

from sttm.errors import ConfigError, UnreducedVideoError
from sttm.methods.base import DecodePruning, Method, check_method, needs_of
from sttm.models.adapter import Adapter, Positions
from sttm.models.contract import Signatures, read_signatures
from sttm.models.evidence import TowerRecorder
from sttm.models.forward import ForwardPass
from sttm.models.registry import adapter_for
from sttm.models.report import VideoReport
from sttm.models.transformers_api import FULL_ATTENTION, handed_features
from sttm.models.versions import warn_if_untested

__all__ = ["Attachment", "VideoReport", "attach"]

# One per model. Chats hold it while they use their model, so that they wait for one another.
_LOCKS: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()
_GUARD = threading.RLock()

_MARK = "_sttm_attachment"
_POLICIES = ("auto", "survived", "reassigned", "merged")


def attach(
    model: Any, method: Method, *, layer: int | None = None, positions: str = "auto"
) -> "Attachment":
    """Reduce every video that passes through ``model``, in front of one decoder layer.

    The model's own code stays in use: only hooks are added, and removed by
    :meth:`Attachment.detach` or at the end of a ``with`` block.

    Args:
        model: a transformers video model, e.g. ``LlavaOnevisionForConditionalGeneration``, or one
            that PEFT or another module wraps.
        method: decides which tokens become one, e.g. ``sttm.STTM(keep=0.3)``.
        layer: decoder layer (0-based) whose input is reduced; default 2, as published for 7B
            models (published for 72B: 0), or the last layer of a smaller model.
        positions: "survived" (tokens keep their rotary positions), "reassigned" (renumbered
            without gaps), "merged" (cos and sin averaged), or "auto": what the family does best.

    Raises:
        ConfigError: layer or policy out of range, or something is attached already.
        UnsupportedModelError: no adapter serves the model, or the method reads an attention that
            this model does not have.
        IncompatibleTransformersError: the model is not called as the hooks expect. The forward
            passes of an attached model raise it too.

    Warns:
        UntestedVersionWarning: once, if transformers is newer than every tested release.

    Source: STTM, sections 3 and 4.3. Differs: decoding goes on without a gap in the positions.
    """
    warn_if_untested()
    adapter = adapter_for(model)
    layers = len(adapter.text.layers)
    layer = min(adapter.layer, layers - 1) if layer is None else layer
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < layers:
        raise ConfigError(f"layer: got {layer!r}, expected an integer from 0 to {layers - 1}.")
    if positions not in _POLICIES:
        raise ConfigError(f"positions: got {positions!r}, expected one of {', '.join(_POLICIES)}.")
    check_method(method)
    policy: Any = adapter.positions if positions == "auto" else positions
    return Attachment(adapter, method, layer, policy, read_signatures(adapter))


def model_lock(adapter: Adapter) -> Any:
    """Return the reentrant lock of a model."""
    with _GUARD:
        return _LOCKS.setdefault(adapter.base, threading.RLock())


def is_attached(adapter: Adapter) -> bool:
    """Whether something is attached to a model."""
    return getattr(adapter.base, _MARK, None) is not None  # absent: nothing ever was


@dataclass
class _State:
    """What one thread is doing with the model.

    Args:
        forward: the forward pass that it is in.
        waiting: whether it has encoded a video that no forward pass was given yet.
    """

    forward: ForwardPass | None = None
    waiting: bool = False


class _Threads(threading.local):
    """The state of each thread: an object, since the dynamo cannot write to a thread itself."""

    def __init__(self) -> None:
        self.state = _State()

    def __reduce__(self) -> Any:
        return type(self), ()  # a copy of an attached model is in no forward pass


class Attachment:
    """Hooks on one model. Use as a context manager, or call :meth:`detach`.

    Attributes:
        method: the reduction method.
        layer: the decoder layer in front of which videos are reduced.
        positions: the position policy in force.
        reports: what was done to each video of the latest forward that carried any, in order of
            (row, place in the prompt).
        observed_layer: the decoder layer whose attention the method reads; None if it reads none.
        decode_pruning: what the method hides while answering; None if nothing.
        asked_layer: the decoder layer that decides on it.
        signatures: of the functions that are hooked.

    Several threads may call the model at the same time, like any model: what happens in one forward
    pass is known to its thread alone. ``reports`` are then those of whichever came last.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Method,
        layer: int,
        positions: Positions,
        signatures: Signatures,
    ) -> None:
        self.signatures = signatures
        self.method = method
        self.layer = layer
        self.positions: Positions = positions
        self.reports: list[VideoReport] = []
        self._adapter = adapter
        self._handles: list[Any] = []
        self._threads = _Threads()
        needs = needs_of(method)
        self.observed_layer: int | None = None
        if "prompt_attention" in needs:
            self.observed_layer = adapter.attention_layer(layer)
        self.decode_pruning: DecodePruning | None = getattr(method, "decode_pruning", None)
        self.asked_layer: int | None = None
        if self.decode_pruning is not None:
            self.asked_layer = _asked_layer(adapter, layer, self.decode_pruning)
        self._tower: TowerRecorder | None = None
        if "tower_attention" in needs:
            self._tower = TowerRecorder(adapter.tower())
        with _GUARD:
            if is_attached(adapter):
                raise ConfigError(
                    "attach: got a model that something is attached to, expected a free one. "
                    "Call detach() on the first attachment, or leave its with-block. Threads share "
                    "one attachment."
                )
            # Only if something else has replaced it on this model.
            self._encoder_before = vars(adapter.base).get(adapter.encoder)
            self._install()

    @property
    def attached(self) -> bool:
        """Whether the hooks are in place."""
        return bool(self._handles)

    def detach(self) -> None:
        """Remove every hook; the model is what it was before. Harmless when called again."""
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        base, encoder = self._adapter.base, self._adapter.encoder
        object.__delattr__(base, _MARK)
        object.__delattr__(base, encoder)
        if self._encoder_before is not None:
            object.__setattr__(base, encoder, self._encoder_before)
        self._threads = _Threads()
        _forget_compiled_graphs()

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _install(self) -> None:
        adapter, text = self._adapter, self._adapter.text
        object.__setattr__(adapter.base, _MARK, self)
        object.__setattr__(
            adapter.base,
            adapter.encoder,
            _RecordingEncoder(self, getattr(adapter.base, adapter.encoder)),
        )
        before, after = _hook_before, _hook_after
        self._handles += [
            before(adapter.base, self._on_model),
            after(adapter.base, self._after_model),
            before(text, self._on_text),
            after(text, self._after_text),
            text.rotary_emb.register_forward_hook(self._after_rotary, with_kwargs=True),
        ]
        hooked = set(range(self.layer, len(text.layers)))
        if self.observed_layer is not None:
            hooked.add(self.observed_layer)
        for index in sorted(hooked):
            hook = functools.partial(self._on_layer, index)
            self._handles.append(before(text.layers[index], hook))
        if self._tower is not None:
            self._handles.append(before(self._tower.tower.attention, self._tower.hook))
        _forget_compiled_graphs()

    def encoded(self, call: tuple[tuple[Any, ...], dict[str, Any]], output: ModelOutput) -> None:
        """Behind the encoder: note the grids of its videos, and what the tower attended to."""
        arguments = self.signatures.encoder.bind(*call)
        videos = self._adapter.encoded(arguments, output)
        if self._tower is not None:
            seen = self._tower.per_video([video.grid for video in videos], arguments)
            videos = [replace(v, tower_attention=each) for v, each in zip(videos, seen)]
        output.sttm_videos = videos
        if self._threads.state.forward is None:
            self._threads.state.waiting = True
        else:
            self._threads.state.forward.videos = videos

    def recording(self) -> Any:
        """Measure the tower's attention in a ``with`` block, if the method needs it."""
        return contextlib.nullcontext() if self._tower is None else self._tower.recording()

    def _on_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        thread, arguments = self._threads.state, self.signatures.base.bind(args, kwargs)
        if handed_features(arguments, self._adapter.modality) is not None:
            thread.waiting = False
        thread.forward = ForwardPass(self._adapter, self, arguments, thread.waiting)

    def _after_model(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        forward, self._threads.state.forward = self._threads.state.forward, None
        if output is None or forward is None:
            return  # the forward has failed already: do not hide its error
        if not forward.reached_text:
            raise forward.past_text()
        if not forward.rows or forward.reduction is not None:
            return
        raise UnreducedVideoError(
            f"a video passed layer {self.layer} unreduced. If the model was compiled before "
            "attach(), compile it again, or detach to run without reduction."
        )

    def _on_text(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        thread = self._threads.state
        if thread.forward is None:
            thread.forward = ForwardPass(self._adapter, self, None, thread.waiting)
        return thread.forward.enter_text(module, args, kwargs)

    def _after_text(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        forward = self._threads.state.forward
        if forward is None:
            return None
        if forward.text_only:
            self._threads.state.forward = None
        return None if output is None else forward.leave_text(output)

    def _after_rotary(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        forward = self._threads.state.forward
        if forward is not None:
            forward.record_rotary(module, args, kwargs, output)

    def _on_layer(self, index: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        forward = self._threads.state.forward
        return None if forward is None else forward.enter_layer(index, args, kwargs)


class _RecordingEncoder:
    """An encoder whose output also tells the grids, and the tower's attention.

    ``generate`` encodes before the first forward and hands over only this output. An object and no
    function, so that a copy of the model has one of its own.

    Args:
        attachment: that it reports to.
        encode: the model's own method.
    """

    __wrapped__: Any

    def __init__(self, attachment: Attachment, encode: Any) -> None:
        functools.update_wrapper(self, encode)
        self._attachment = attachment

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._attachment.recording():
            output = self.__wrapped__(*args, **kwargs)
        if isinstance(output, ModelOutput):  # a tuple cannot carry the grids; it is refused later
            self._attachment.encoded((args, kwargs), output)
        return output


def _asked_layer(adapter: Adapter, layer: int, pruning: DecodePruning) -> int:
    """Return the layer that decides what the layers from ``pruning.layer`` on see."""
    layers = len(adapter.text.layers)
    if layer < pruning.layer < layers:
        asked = adapter.attention_layer(pruning.layer)
        if asked >= layer and adapter.layer_types[asked] == FULL_ATTENTION:
            return asked
    raise ConfigError(
        f"decode_layer: got {pruning.layer} with a reduction in front of layer {layer}, expected "
        f"an integer from {layer + 1} to {layers - 1} behind a full-attention layer that is not "
        f"below layer {layer}. Attach at a lower layer, or choose another decode_layer."
    )


def _hook_before(module: Any, hook: Any) -> Any:
    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _hook_after(module: Any, hook: Any) -> Any:
    return module.register_forward_hook(hook, with_kwargs=True, always_call=True)


def _forget_compiled_graphs() -> None:
    """Compiled graphs do not look at hooks again; drop those that exist, if any do."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None and dynamo.counters["stats"]["unique_graphs"]:
        torch._dynamo.reset()
