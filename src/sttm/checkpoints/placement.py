"""On which devices a model is put."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch

from sttm.errors import ConfigError

TENSOR_PARALLEL = "tp"
_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Placement:
    """Where the weights of a model go.

    Args:
        where: ``"auto"``, ``"balanced"`` or ``"sequential"`` spread layers over all GPUs, and the
            CPU where these are too small; ``"tp"`` splits every layer over the processes that
            torchrun started; else a device such as ``"cuda:1"`` or ``"cpu"``. None: as "auto" where
            there is a GPU.

    Raises:
        ConfigError: nothing of that, no such device, or a package is missing for it.
    """

    where: str | None = None

    def __post_init__(self) -> None:
        if self.where is None:
            return
        if self.where == TENSOR_PARALLEL:
            if "WORLD_SIZE" not in os.environ:
                raise ConfigError(
                    "--device-map tp: got one process, expected one per GPU. Start them with "
                    "`torchrun --no-python --nproc-per-node N sttm ...`."
                )
        elif self.where not in _SPREAD:
            _check_device(self.where)
        elif importlib.util.find_spec("accelerate") is None:
            raise ConfigError(
                f"--device-map {self.where}: accelerate is not installed, which spreads models. "
                "Run `pip install accelerate`, or name one device."
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``from_pretrained`` must be told."""
        if self.where == TENSOR_PARALLEL:
            from transformers import DistributedConfig

            return {"distributed_config": DistributedConfig(tp_plan="auto")}
        if self.where in _SPREAD:
            return {"device_map": self.where}
        spreads = importlib.util.find_spec("accelerate") is not None
        if self.where is None and torch.cuda.is_available() and spreads:
            return {"device_map": "auto"}
        return {}

    def settle(self, model: Any) -> Any:
        """Move a loaded model where it should be, if it is not there yet."""
        if not self.arguments and (self.where or torch.cuda.is_available()):
            return model.to(self.where or "cuda")
        return model


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device-map: got {name!r}, expected auto, balanced, sequential, tp, or a device "
            "such as cuda:1 or cpu."
        ) from error
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ConfigError(f"--device-map: got {name!r}, expected one of the {found} GPUs here.")
