"""nano: a small trained video model with its clip generator and its questions.

Nothing heavy is imported here: torch and transformers come with the first use of ``load``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sttm.nano.clips import Clip, Needle, make_clip, write_clip
    from sttm.nano.model import NANO_LAYER, NANO_POSITIONS, load, weights_path
    from sttm.nano.questions import Question, make_questions, scene_questions
    from sttm.nano.scenes import make_scene

_HOME = {
    "Clip": "clips",
    "Needle": "clips",
    "make_clip": "clips",
    "write_clip": "clips",
    "NANO_LAYER": "model",
    "NANO_POSITIONS": "model",
    "load": "model",
    "weights_path": "model",
    "Question": "questions",
    "make_questions": "questions",
    "make_scene": "scenes",
    "scene_questions": "questions",
}

__all__ = [
    "NANO_LAYER",
    "NANO_POSITIONS",
    "Clip",
    "Needle",
    "Question",
    "load",
    "make_clip",
    "make_questions",
    "make_scene",
    "scene_questions",
    "weights_path",
    "write_clip",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sttm.nano.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
