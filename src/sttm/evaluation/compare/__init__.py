"""Which method and budget is good enough for a model and some videos, told without labels."""

from sttm.evaluation.compare.measure import (
    Agreement,
    Measured,
    ModelAnswer,
    VideoComparison,
    check_settings,
    compare_video,
)
from sttm.evaluation.compare.plot import draw_comparison
from sttm.evaluation.compare.questions import Question, default_questions, read_questions
from sttm.evaluation.compare.summary import Recommendation, Row, recommend, summarize
from sttm.evaluation.specs import make_settings

__all__ = [
    "Agreement",
    "Measured",
    "ModelAnswer",
    "Question",
    "Recommendation",
    "Row",
    "VideoComparison",
    "check_settings",
    "compare_video",
    "default_questions",
    "draw_comparison",
    "make_settings",
    "read_questions",
    "recommend",
    "summarize",
]
