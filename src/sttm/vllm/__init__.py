"""STTM inside vLLM: a plugin that merges video tokens in front of the language model.

vLLM calls `register` in each of its processes if sttm is installed beside it. Importing this
package loads neither vLLM nor torch. See docs/vllm.md.
"""

import logging
import os
import re

# The releases of vLLM (major, minor) that tests/vllm was run with; docs/vllm.md says how.
TESTED = ((0, 31), (0, 32), (0, 33))
ANYWAY = "VLLM_STTM_UNTESTED"  # Ray copies variables that begin with VLLM_ to its workers
# The architectures, and where their classes are.
ARCHITECTURES = {
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5",
}
_logger = logging.getLogger("vllm.sttm")  # below vLLM's own logger, whose handlers show it


def register() -> None:
    """Let vLLM build its video models with sttm; they do nothing until a server asks for it.

    Every architecture is registered under its own name and, with ``STTM`` in front, under one that
    vLLM does not know without this plugin.
    """
    from vllm.version import __version__

    if not _is_tested(__version__) and os.environ.get(ANYWAY) != "1":
        tested = ", ".join(".".join(map(str, release)) for release in TESTED)
        _logger.warning(
            "sttm is switched off: got vLLM %s, expected one of the tested releases %s. Install "
            "one of them, or set %s=1 to try this one.",
            __version__,
            tested,
            ANYWAY,
        )
        return
    from sttm.vllm.compat import patch_cpu_runner
    from vllm import ModelRegistry

    patch_cpu_runner()
    for name, module in ARCHITECTURES.items():
        for alias in (name, f"STTM{name}"):
            ModelRegistry.register_model(alias, f"sttm.vllm.{module}:{name}")


def _is_tested(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and tuple(map(int, found.groups())) in TESTED
