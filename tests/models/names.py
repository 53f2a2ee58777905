"""What the installed transformers calls its KV cache, for tests that hand one over."""

import inspect
from typing import Any

from transformers import Qwen2Model

_PARAMETERS = inspect.signature(Qwen2Model.forward).parameters
CACHE = next(name for name in ("cache", "past_key_values") if name in _PARAMETERS)


def with_cache(cache: Any) -> dict[str, Any]:
    """Return the argument of a model or of ``generate`` that hands ``cache`` over."""
    return {CACHE: cache}


def cache_of(output: Any) -> Any:
    """Return the cache in a model's output."""
    return output[CACHE]
