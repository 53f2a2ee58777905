"""The one place where vLLM itself is changed."""

import functools
import inspect
from typing import Any

FLAG = "is_multimodal_pruning_enabled"


def patch_cpu_runner() -> None:
    """Let vLLM's CPU runner ask the model for positions, as its GPU runner does.

    ``GPUModelRunner.load_model`` sets a flag that ``CPUModelRunner.load_model``, which overrides
    it, forgets. Nothing is done on another platform, or where vLLM sets the flag itself.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load_model = CPUModelRunner.load_model
    if FLAG in inspect.unwrap(load_model).__code__.co_names:
        return

    @functools.wraps(load_model)
    def load_and_set_flag(runner: Any, *args: Any, **kwargs: Any) -> None:
        from vllm.model_executor.models.interfaces import supports_multimodal_pruning

        load_model(runner, *args, **kwargs)
        config = runner.model_config.multimodal_config
        enabled = config is not None and config.is_multimodal_pruning_enabled()
        setattr(runner, FLAG, enabled and supports_multimodal_pruning(runner.get_model()))

    CPUModelRunner.load_model = load_and_set_flag
