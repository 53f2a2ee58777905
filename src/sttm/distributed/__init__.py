"""Work spread over the machines of a Ray cluster."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sttm.distributed.executor import RayExecutor

__all__ = ["RayExecutor"]


def __getattr__(name: str) -> Any:
    """Import the executor when it is used: workers start without it."""
    if name != "RayExecutor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sttm.distributed.executor import RayExecutor

    return RayExecutor
