"""Time the language model's first forward, as papers define the time to first token."""

import time
from types import TracebackType
from typing import Any

import torch

from sttm.errors import UnsupportedModelError


class FirstForward:
    """Times the first forward of a model inside a ``with`` block, on an idle device.

    With the video's features handed over, that forward is the language model's alone: no decoding
    and no vision tower, but the reduction.

    Args:
        model: the model; its hooks are removed at the end.

    Attributes:
        seconds: of the first forward; 0 before it.

    Raises:
        UnsupportedModelError: at the end of the block, if the model was not called.
    """

    def __init__(self, model: Any) -> None:
        self.seconds = 0.0
        self._model = model
        self._start: float | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "FirstForward":
        self._handles = [
            self._model.register_forward_pre_hook(self._before),
            self._model.register_forward_hook(self._after),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None and not self.seconds:
            raise UnsupportedModelError(
                f"got a {type(self._model).__name__} of which no forward was seen, expected one to "
                "time. Pass the transformers model itself, without what wraps it."
            )

    def _before(self, *_: Any) -> None:
        if self._start is None:
            wait()
            self._start = time.perf_counter()

    def _after(self, *_: Any) -> None:
        if not self.seconds and self._start is not None:
            wait()
            self.seconds = time.perf_counter() - self._start


def wait() -> None:
    """Wait for every device; a model may lie on several."""
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
