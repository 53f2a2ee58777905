"""The hooks on one model: put in place once, and in force where a thread says so."""

import contextlib
import functools
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers.utils import ModelOutput

from sttm.errors import ConfigError
from sttm.methods.base import Method
from sttm.models.adapter import Adapter, note_videos
from sttm.models.attention_scores import TowerRecorder
from sttm.models.configuration import ReductionConfig
from sttm.models.contract import read_signatures
from sttm.models.forward import ForwardPass
from sttm.models.report import VideoReport
from sttm.models.transformers_api import handed_features

_MARK = "_sttm_hooks"
# One per model: chats hold it while they use their model, so that they wait for one another.
_LOCKS: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()
_GUARD = threading.RLock()


@dataclass(eq=False)
class Reduction:
    """A way to reduce videos that is in force.

    Args:
        config: the way.
        reports: what was done to each video of the latest forward that carried any, in order of
            (row, place in the prompt).
    """

    config: ReductionConfig
    reports: list[VideoReport] = field(default_factory=list)


@dataclass(eq=False)
class _State:
    """What one thread does under a reduction.

    Args:
        reduction: the one in force.
        forward: the forward pass that the thread is in.
        waiting: whether it has encoded a video that no forward pass was given yet.
    """

    reduction: Reduction
    forward: ForwardPass | None = None
    waiting: bool = False


class _Thread(threading.local):
    """What each thread does; no context variable, since older dynamos cannot trace those.

    The state is an object, since the dynamo cannot write to a thread itself.

    Args:
        reduction: in force in every thread; None if there is none.
    """

    def __init__(self, reduction: Reduction | None = None) -> None:
        self.reduction = reduction
        self.state = None if reduction is None else _State(reduction)
        self.in_block = False

    def __reduce__(self) -> Any:
        return type(self), (self.reduction,)  # a copy of the model is in no forward pass


class ModelHooks:
    """The hooks on one model, shared by everything that reduces its videos.

    Without a reduction in force they do nothing. One can be attached, for all threads, or be in
    force in one thread for the time of a block.

    Args:
        adapter: the model's family.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.signatures = read_signatures(adapter)
        self._users = 0
        self._handles: list[Any] = []
        self._shared = _Thread()  # under the reduction that is attached
        self._own = _Thread()  # in a block of this thread alone
        self._tower: TowerRecorder | None = None
        self._encoder_before: Any = None

    @classmethod
    def hold(cls, adapter: Adapter) -> "ModelHooks":
        """Return the hooks of a model, put in place by the first who holds them.

        Raises:
            IncompatibleTransformersError: the model is not called as the hooks expect.
        """
        with _GUARD:
            hooks: ModelHooks = getattr(adapter.base, _MARK, None) or cls(adapter)
            first = not hooks._users
            hooks._users += 1
            if first:
                hooks._install()
        if first:  # not under the guard: a compilation may be waiting for it
            _forget_compiled_graphs()
        return hooks

    def release(self) -> None:
        """Give them back; the last who does leaves the model as it was before."""
        with _GUARD:
            self._users -= 1
            if not self._users:
                self._remove()

    @property
    def attached(self) -> Reduction | None:
        """The reduction in force for all threads; None if there is none."""
        return self._shared.reduction

    @property
    def lock(self) -> Any:
        """The reentrant lock of the model."""
        with _GUARD:
            return _LOCKS.setdefault(self.adapter.base, threading.RLock())

    def configure(
        self, method: Method, layer: int | None = None, positions: str = "auto"
    ) -> ReductionConfig:
        """Check what a user asks for; see `ReductionConfig.of`.

        Raises:
            ConfigError: no such method, layer or policy.
            UnsupportedModelError: the method reads an attention that this model does not have.
        """
        config = ReductionConfig.of(self.adapter, method, layer, positions)
        with _GUARD:
            wanted = config.needs_tower and self._tower is None
            if wanted:
                self._tower = TowerRecorder(self.adapter.tower())
                self._handles.append(_before(self._tower.tower.attention, self._tower.hook))
        if wanted:
            _forget_compiled_graphs()
        return config

    def attach(self, config: ReductionConfig) -> Reduction:
        """Put a reduction in force for all threads.

        Raises:
            ConfigError: another one is.
        """
        with _GUARD:
            if self.attached is not None:
                raise ConfigError(
                    "attach: got a model that something is attached to, expected a free one. "
                    "Call detach() on the first attachment, or leave its with-block. Threads share "
                    "one attachment."
                )
            reduction = Reduction(config)
            self._shared = _Thread(reduction)
            return reduction

    def detach(self) -> None:
        """Take off what :meth:`attach` has put in force."""
        self._shared = _Thread()

    def refuse_attached(self) -> None:
        """Refuse a model that something is attached to: a chat reduces videos itself.

        Raises:
            ConfigError: it is one.
        """
        if self.attached is not None:
            raise ConfigError(
                "got a model that something is attached to, expected a free one for a chat, which "
                "reduces videos itself. Call detach() on the attachment first."
            )

    @contextlib.contextmanager
    def reducing(
        self, config: ReductionConfig | None, *, alone: bool = True
    ) -> Iterator[Reduction | None]:
        """Put a reduction in force for this thread and this block; None: nothing is reduced.

        Args:
            config: the reduction.
            alone: whether other threads that want the same wait until the block ends. What happens
                in a forward pass is each thread's own; ``generate`` changes the model's settings.

        Raises:
            ConfigError: something is attached to the model.
        """
        with self.lock if alone else contextlib.nullcontext():
            self.refuse_attached()
            reduction = None if config is None else Reduction(config)
            own = self._own
            before = own.in_block, own.state
            own.in_block, own.state = True, None if reduction is None else _State(reduction)
            try:
                yield reduction
            finally:
                own.in_block, own.state = before

    def encoded(self, call: tuple[tuple[Any, ...], dict[str, Any]], output: ModelOutput) -> None:
        """Behind the encoder: note the grids of its videos, and what the tower attended to."""
        state, arguments = self._state(), self.signatures.encoder.bind(*call)
        if state is None:
            return
        videos = self.adapter.encoded(arguments, output)
        if self._tower is not None and state.reduction.config.needs_tower:
            seen = self._tower.per_video([video.grid for video in videos], arguments)
            videos = [replace(v, tower_attention=each) for v, each in zip(videos, seen)]
        note_videos(output, videos)
        if state.forward is None:
            state.waiting = True
        else:
            state.forward.videos = videos

    def recording(self) -> Any:
        """Measure the tower's attention in a ``with`` block, if the method in force reads it."""
        state = self._state()
        if state is None or self._tower is None or not state.reduction.config.needs_tower:
            return contextlib.nullcontext()
        return self._tower.recording()

    def _state(self) -> _State | None:
        """Return what this thread does under the reduction in force; None if none is."""
        return self._own.state if self._own.in_block else self._shared.state

    def _install(self) -> None:
        adapter, text = self.adapter, self.adapter.text
        # Only if something else has replaced it on this model.
        self._encoder_before = vars(adapter.base).get(adapter.encoder)
        encoder = _RecordingEncoder(self, getattr(adapter.base, adapter.encoder))
        object.__setattr__(adapter.base, _MARK, self)
        object.__setattr__(adapter.base, adapter.encoder, encoder)
        self._handles += [
            _before(adapter.base, self._on_model),
            _after(adapter.base, self._after_model),
            _before(text, self._on_text),
            _after(text, self._after_text),
            text.rotary_emb.register_forward_hook(self._after_rotary, with_kwargs=True),
        ]
        for index, layer in enumerate(text.layers):
            self._handles.append(_before(layer, functools.partial(self._on_layer, index)))

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._tower = None
        base, encoder = self.adapter.base, self.adapter.encoder
        object.__delattr__(base, _MARK)
        object.__delattr__(base, encoder)
        if self._encoder_before is not None:
            object.__setattr__(base, encoder, self._encoder_before)

    def _on_model(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = self._state()
        if state is None:
            return
        arguments = self.signatures.base.bind(args, kwargs)
        if handed_features(arguments, self.adapter.modality) is not None:
            state.waiting = False
        state.forward = self._pass(state, arguments)

    def _pass(self, state: _State, arguments: dict[str, Any] | None) -> ForwardPass:
        config = state.reduction.config
        return ForwardPass(self.adapter, config, self.signatures, arguments, state.waiting)

    def _after_model(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        state = self._state()
        if state is None:
            return
        forward, state.forward = state.forward, None
        if output is not None and forward is not None:  # else it has failed: its error is told
            forward.leave_model()

    def _on_text(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state = self._state()
        if state is None:
            return None
        if state.forward is None:
            state.forward = self._pass(state, None)
        return state.forward.enter_text(args, kwargs)

    def _after_text(self, module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        state = self._state()
        forward = None if state is None else state.forward
        if state is None or forward is None:
            return None
        if forward.text_only:
            state.forward = None
        if output is None:
            return None
        if forward.reports:
            state.reduction.reports = forward.reports
        return forward.leave_text(output)

    def _after_rotary(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        state = self._state()
        if state is not None and state.forward is not None:
            state.forward.record_rotary(module, args, kwargs, output)

    def _on_layer(self, index: int, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        state = self._state()
        if state is None or state.forward is None:
            return None
        return state.forward.enter_layer(index, args, kwargs)


class _RecordingEncoder:
    """An encoder whose output also tells the grids, and the tower's attention.

    ``generate`` encodes before the first forward and hands over only this output. An object and no
    function, so that a copy of the model has one of its own.

    Args:
        hooks: that it reports to.
        encode: the model's own method.
    """

    __wrapped__: Any

    def __init__(self, hooks: ModelHooks, encode: Any) -> None:
        functools.update_wrapper(self, encode)
        self._hooks = hooks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._hooks.recording():
            output = self.__wrapped__(*args, **kwargs)
        if isinstance(output, ModelOutput):  # a tuple cannot carry the grids; it is refused later
            self._hooks.encoded((args, kwargs), output)
        return output


def _before(module: Any, hook: Any) -> Any:
    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: Any, hook: Any) -> Any:
    return module.register_forward_hook(hook, with_kwargs=True, always_call=True)


def _forget_compiled_graphs() -> None:
    """Compiled graphs do not look at hooks again; drop those that exist, if any do."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None and dynamo.counters["stats"]["unique_graphs"]:
        torch._dynamo.reset()
