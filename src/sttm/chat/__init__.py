"""Watch a video once, ask many questions."""

from sttm.chat.prefilled import Conversation, PrefilledVideo
from sttm.chat.records import Answer, Source, Timings
from sttm.chat.session import VideoChat
from sttm.chat.store_folder import StoredVideo
from sttm.chat.stream import VideoStream
from sttm.chat.video_store import VideoStore
from sttm.deprecated import old_names

__all__ = [
    "Answer",
    "Conversation",
    "PrefilledVideo",
    "Source",
    "StoredVideo",
    "Timings",
    "VideoChat",
    "VideoStore",
    "VideoStream",
]

__getattr__ = old_names(__name__, {"WatchedVideo": PrefilledVideo})
