"""Features in place of videos: what the vision tower makes of them, stored once for many runs."""

from sttm.evaluation.features.extract import (
    Extraction,
    ExtractPlan,
    Failure,
    VideoJob,
    extract_video,
    ready,
    verify,
)
from sttm.evaluation.features.folder import FeatureFolder
from sttm.evaluation.features.manifest import StoredVideo

__all__ = [
    "ExtractPlan",
    "Extraction",
    "Failure",
    "FeatureFolder",
    "StoredVideo",
    "VideoJob",
    "extract_video",
    "ready",
    "verify",
]
