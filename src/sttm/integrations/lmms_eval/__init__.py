"""The model ``sttm`` of lmms-eval: any supported video model, with or without a reduction.

lmms-eval finds it through the entry point ``lmms_eval.models`` that this package declares:
``lmms-eval --model sttm --model_args pretrained=ID,method=sttm,keep=0.3 --tasks videomme``.
"""

from typing import Any

_MODEL = "sttm.integrations.lmms_eval.model"


def manifest() -> Any:
    """Return where lmms-eval finds the model; it calls this without loading a model or torch."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        "sttm", simple_class_path=f"{_MODEL}.SttmSimple", chat_class_path=f"{_MODEL}.Sttm"
    )
