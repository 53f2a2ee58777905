"""Video files in: which frames to sample, decoding them, and the subtitles beside them."""

from sttm.video.decode import Video, VideoWarning, read_video
from sttm.video.encode import write_video
from sttm.video.sampling import (
    Sampling,
    llava_indices,
    nominal_times,
    qwen_indices,
    smart_resize,
    uniform_indices,
)
from sttm.video.subtitles import Subtitle, find_subtitles, read_subtitles, subtitles_at

__all__ = [
    "Sampling",
    "Subtitle",
    "Video",
    "VideoWarning",
    "find_subtitles",
    "llava_indices",
    "nominal_times",
    "qwen_indices",
    "read_subtitles",
    "read_video",
    "smart_resize",
    "subtitles_at",
    "uniform_indices",
    "write_video",
]
