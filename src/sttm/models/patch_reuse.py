"""Encode only what changed since the last time step: patches that stand still keep their outputs.

A patch whose pixels are near those it was last encoded from keeps its keys, values and outputs in
every layer of the vision tower. The others are queries alone: they attend to all patches, and their
new keys and values take the place of the old ones. What this neglects is that patches that stand
still would have seen the others move.
"""

import threading
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sttm.models.adapter import Adapter, Step
from sttm.models.transformers_api import (
    ATTENTION_MASK,
    CHUNK_LENGTHS,
    POSITION_EMBEDDINGS,
    Signature,
)

_NAME = "sttm_patch_reuse"
_MOST = 0.5  # of the patches; where more have changed, all are encoded
_thread = threading.local()


def patch_distance(adapter: Adapter, before: Step, after: Step) -> torch.Tensor | None:
    """Return the root mean square of the difference of pixels, patch by patch.

    Returns:
        ``(patches,)`` float32 in the processor's units; None if the sizes differ.
    """
    first, second = adapter.step_patches(before), adapter.step_patches(after)
    return _distance(first, second) if first.shape == second.shape else None


def _distance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return (after.float() - before.float()).square().mean(1).sqrt()


@dataclass(eq=False)
class _Memory:
    """What one layer of the tower gave, patch by patch, when each was last encoded.

    Args:
        output: ``(patches, C)`` or ``(1, patches, C)``.
        keys, values: ``(1, heads, patches, D)``, in windows while all patches are encoded.
    """

    output: torch.Tensor
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Window:
    """Patches that see each other, and those of them that are encoded.

    Args:
        seen: the patches.
        index: ``(n,)`` int64, those that are encoded.
    """

    seen: slice
    index: torch.Tensor


class PatchReuse:
    """Hooks on a vision tower for the time of a ``with`` block; time steps come one by one.

    Args:
        adapter: the model's family.
        threshold: distance up to which a patch stands still, in the processor's units.

    Attributes:
        encoded: patches that went through the tower.
        patches: patches of all time steps.

    Raises:
        UnsupportedModelError: the family's tower is not known.
    """

    def __init__(self, adapter: Adapter, threshold: float) -> None:
        self.encoded = self.patches = 0
        self._adapter, self._threshold = adapter, threshold
        self._layers = adapter.tower_layers()
        self._config: Any = next(
            part.config for part in self._layers[0].modules() if hasattr(part, "config")
        )
        self._memories: list[_Memory] = []  # of the layers
        self._pixels: torch.Tensor | None = None
        self._changed: torch.Tensor | None = None  # patches in the tower's order; None: all
        self._index = torch.empty(0)  # of the changed ones among the layers' inputs
        self._windows: list[_Window] = []  # of the layer that runs, those still to come
        self._running = 0
        self._handles: list[Any] = []
        self._attention = ""

    def __enter__(self) -> "PatchReuse":
        for number, layer in enumerate(self._layers):
            before, signature = partial(self._before, number), Signature.of(layer)
            self._handles += [
                layer.register_forward_pre_hook(partial(before, signature), with_kwargs=True),
                # In front of the library's own hooks, which record the outputs.
                layer.register_forward_hook(partial(self._after, number), prepend=True),
            ]
        self._attention = self._config._attn_implementation
        self._config._attn_implementation = _NAME
        _thread.reuse = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _thread.reuse = None
        self._config._attn_implementation = self._attention
        for handle in self._handles:
            handle.remove()

    def start(self, step: Step) -> bool:
        """Say which time step comes next.

        Returns:
            whether any patch has changed, so that the encoder must be called.
        """
        pixels, order = self._adapter.step_patches(step), self._adapter.step_order(step)
        self.patches += len(pixels)
        same = self._pixels is not None and self._pixels.shape == pixels.shape
        changed = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
        if self._pixels is not None and same:
            changed = _distance(self._pixels, pixels) > self._threshold
        if self._pixels is None or not same or changed.float().mean() > _MOST:
            self._pixels, self._changed, self._memories = pixels.clone(), None, []
            self.encoded += len(pixels)
            return True
        self._pixels[changed] = pixels[changed]
        self._changed = changed if order is None else changed[order.to(changed.device)]
        self.encoded += int(changed.sum())
        return bool(changed.any())

    def _before(
        self, number: int, signature: Signature, module: Any, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """In front of a layer: leave only the patches that have changed."""
        call = signature.bind(args, kwargs)
        hidden = signature.given(call, signature.names[0])
        if self._changed is None:
            self._memories.append(_Memory(hidden))  # until its output is there
            return None
        if not number:  # a class token in front of the patches changes with any of them
            first = hidden.shape[-2] - len(self._changed)
            self._index = torch.nn.functional.pad(self._changed, (first, 0), value=True).nonzero()[
                :, 0
            ]
        self._running = number
        index, new = self._index.to(hidden.device), dict(kwargs)
        ends = call.get(CHUNK_LENGTHS)  # absent where all patches see each other
        bounds = [0, hidden.shape[-2]] if ends is None else ends.tolist()
        cuts = torch.searchsorted(index, torch.tensor(bounds, device=index.device)).tolist()
        self._windows = [
            _Window(slice(*bounds[i : i + 2]), index[cuts[i] : cuts[i + 1]])
            for i in range(len(bounds) - 1)
            if cuts[i] < cuts[i + 1]
        ]
        if ends is not None:
            new[CHUNK_LENGTHS] = ends.new_tensor(sorted(set(cuts)))
        if call.get(POSITION_EMBEDDINGS) is not None:  # absent in towers that do not rotate
            new[POSITION_EMBEDDINGS] = tuple(part[index] for part in call[POSITION_EMBEDDINGS])
        return (hidden[..., index, :], *args[1:]), new

    def _after(self, number: int, module: Any, args: Any, output: Any) -> Any:
        """Behind a layer: give back the outputs of all patches."""
        hidden = output[0] if isinstance(output, tuple) else output
        memory = self._memories[number]
        if self._changed is None:
            memory.output = hidden
            memory.keys, memory.values = [torch.cat(memory.keys, 2)], [torch.cat(memory.values, 2)]
            return None
        memory.output[..., self._index.to(hidden.device), :] = hidden
        return (memory.output, *output[1:]) if isinstance(output, tuple) else memory.output

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any
    ) -> Any:
        """Attend to all patches of a window, of which only some have come."""
        if self._changed is None:
            self._memories[-1].keys.append(key)
            self._memories[-1].values.append(value)
        else:
            window, memory = self._windows.pop(0), self._memories[self._running]
            memory.keys[0][:, :, window.index] = key
            memory.values[0][:, :, window.index] = value
            key, value = (part[0][:, :, window.seen] for part in (memory.keys, memory.values))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, **more)


def _attend(module: Any, *tensors: Any, **more: Any) -> Any:
    more.pop(ATTENTION_MASK, None)  # towers have none
    reuse: PatchReuse = _thread.reuse
    return reuse.attend(module, *tensors[:3], **more)


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)
