"""Old public names still work, and say the new ones."""

import pytest

import sttm.chat
import sttm.models
from sttm.chat import Answer


def test_old_names_give_the_same_objects_and_warn() -> None:
    with pytest.deprecated_call(match="PrefilledVideo"):
        assert sttm.chat.WatchedVideo is sttm.chat.PrefilledVideo
    with pytest.deprecated_call(match="VideoLayout"):
        assert sttm.models.EncodedVideo is sttm.models.VideoLayout
    answer = Answer("Yes.", (1,), prompt_tokens=7, ttft=0.1, seconds=0.2)
    with pytest.deprecated_call(match="prompt_tokens"):
        assert answer.tokens == 7
    with pytest.raises(AttributeError, match="no attribute 'Wanted'"):
        _ = sttm.chat.Wanted
