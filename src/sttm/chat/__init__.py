"""Watch a video once, ask many questions."""

from sttm.chat.records import Answer, Source, Timings
from sttm.chat.session import Conversation, VideoChat, WatchedVideo

__all__ = ["Answer", "Conversation", "Source", "Timings", "VideoChat", "WatchedVideo"]
