"""What goes wrong, as clients of OpenAI's API understand it: a status, and one JSON object."""

from typing import Any

from sttm.errors import ConfigError, FailedVideoError, SttmError, VideoError

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: what was got, what was expected and what to do; shown to the client.
        code: one word for programs.
        param: the field of the request that it is about.
        retry_after: seconds after which it may go better.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the JSON object that clients get."""
        kind = _TYPES.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        if self.status in (408, 413):
            return {"Connection": "close"}  # the rest of the body is not read
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Build the error for a request that is wrong by itself."""
    return ApiError(400, message, code, param=param)


def busy(what: str, seconds: int) -> ApiError:
    """Build the error for a request that comes at a bad time."""
    return ApiError(
        429,
        f"got one {what} more than the server takes at once. Try again in {seconds} s.",
        "rate_limit_exceeded",
        retry_after=seconds,
    )


def as_api_error(error: Exception) -> ApiError:
    """Turn any error into one for clients; what is not about their request tells nothing."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, VideoError | FailedVideoError):
        return bad_request(str(error), "messages", "invalid_video")
    if isinstance(error, ConfigError):
        return bad_request(str(error))
    what = "the model" if isinstance(error, SttmError) else "the server"
    return ApiError(500, f"{what} failed at this request; its log says why.", "internal_error")
