import pytest

from sttm.errors import ConfigError, FailedVideoError, SttmError, WriteError
from sttm.evaluation.trouble import naming, told


def test_what_another_library_raises_has_the_video_s_name() -> None:
    cause = ZeroDivisionError("division\n  by zero")
    with pytest.raises(FailedVideoError) as caught, naming("a.mp4"):
        raise cause
    assert str(caught.value) == "a.mp4: ZeroDivisionError: division by zero"
    assert caught.value.__cause__ is cause
    with pytest.raises(FailedVideoError, match=r"^a\.mp4: AssertionError$"), naming("a.mp4"):
        raise AssertionError


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(2), MemoryError(), WriteError("full"), ConfigError("no")],
)
def test_other_errors_go_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, naming("a.mp4"):
        raise error
    assert caught.value is error


def test_a_name_is_told_once() -> None:
    assert told("a.mp4", SttmError("a.mp4: got\n nothing")) == "a.mp4: got nothing"
    assert told("a.mp4", SttmError("got nothing")) == "a.mp4: got nothing"
    assert told("a.mp4", KeyError("x")) == "a.mp4: KeyError: 'x'"
