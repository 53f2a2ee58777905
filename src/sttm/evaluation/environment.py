"""The machine, the software, the commit and the weights behind a measurement."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).parent.parent
_NO_PART = ("cli", "view")
_SAMPLED = 4096  # elements of each parameter that go into a fingerprint


def environment(device: torch.device) -> dict[str, Any]:
    """Name everything that a measurement depends on."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes_in_src": bool(_git("status", "--porcelain", ".")),
        "code": code_digest(),
        "cpu": _cpu(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        # Well above the number of threads: other work disturbed the timings.
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "platform": platform.system(),
    }


def code_digest(package: Path = PACKAGE) -> str:
    """Return a short digest of the package's source, without what only shows."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] in _NO_PART:
            continue
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def fingerprint(model: Any) -> str:
    """Return a short digest of a model's weights, from evenly spaced elements of each."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // _SAMPLED)]
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(some.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str | None:
    """Ask git about the package's folder; None unless git itself keeps this file."""
    git = ["git", "-C", str(PACKAGE)]
    try:
        own = subprocess.run(
            [*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True
        )
        done = subprocess.run([*git, *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return None if own.returncode or done.returncode else done.stdout.strip()


def _cpu() -> str:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
