"""Watch a video once, ask many questions."""

from sttm.chat.prefilled import Conversation, PrefilledVideo
from sttm.chat.records import Answer, Source, Timings
from sttm.chat.session import VideoChat
from sttm.deprecated import old_names

__all__ = ["Answer", "Conversation", "PrefilledVideo", "Source", "Timings", "VideoChat"]

__getattr__ = old_names(__name__, {"WatchedVideo": PrefilledVideo})
