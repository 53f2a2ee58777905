"""Memory: how much there is, how much a model needs, and how much a call really took."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sttm.errors import ConfigError
from sttm.evaluation.shapes import Shape, count_parameters

_SPARE = 1.1  # what an estimate may miss


@dataclass
class Peak:
    """What a block of code took at most; in bytes, None where the system does not tell.

    Args:
        extra: beyond what was there before the block.
        total: altogether: of the process, or of what PyTorch holds on the GPU.
    """

    extra: int | None = None
    total: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak inside the block; the result is complete behind it.

    On a CPU it is the high-water mark of the resident memory (Linux), on a GPU what PyTorch's
    allocator holds.
    """
    peak = Peak()
    read = _start_cuda(device) if device.type == "cuda" else _start_cpu()
    yield peak
    peak.extra, peak.total = read()


def available_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    free_now = _status("MemAvailable", Path("/proc/meminfo"))
    if free_now is not None:
        return free_now
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def needed_bytes(shape: Shape, frames: int, dtype: torch.dtype) -> int:
    """Estimate what a prefill with all tokens needs: weights, cache, activations."""
    length = shape.video_tokens(frames) + 64
    activations = length * (10 * shape.hidden + 3 * shape.intermediate)
    # Attention is computed in pieces; a mask of one byte per pair may exist for a moment.
    pieces = (count_parameters(shape) + activations) * dtype.itemsize + length**2
    return int(_SPARE * (pieces + 2 * shape.kv_bytes(length, dtype.itemsize)))


def check_memory(
    name: str, shape: Shape, frames: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Refuse what will not fit before anything is built.

    Raises:
        ConfigError: too little memory.
    """
    needed, free = needed_bytes(shape, frames, dtype), available_bytes(device)
    if needed > free:
        kind = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"shape: got {name} with {frames} frames in {kind}, about {needed / 2**30:.1f} GiB "
            f"with activations, expected at most the {free / 2**30:.1f} GiB that are free on "
            f"{device}. Take fewer --frames, --dtype bfloat16, a smaller shape or another device."
        )


def _start_cuda(device: torch.device) -> Callable[[], tuple[int | None, int | None]]:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)

    def read() -> tuple[int | None, int | None]:
        most = int(torch.cuda.max_memory_allocated(device))
        return most - before, most

    return read


def _start_cpu() -> Callable[[], tuple[int | None, int | None]]:
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return lambda: (None, None)
    # Hand freed memory back, so that it is not counted as there before; "5" makes the high-water
    # mark of the resident memory start again from here.
    ctypes.CDLL(None).malloc_trim(0)
    try:
        reset.write_text("5")
    except OSError:
        return lambda: (None, None)
    before = _status("VmRSS", status)

    def read() -> tuple[int | None, int | None]:
        most = _status("VmHWM", status)
        return (None if most is None or before is None else most - before), most

    return read


def _status(field: str, path: Path) -> int | None:
    """Read a field of ``/proc`` in bytes."""
    if not path.exists():
        return None
    lines = [line for line in path.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(lines[0].split()[1]) * 1024 if lines else None
