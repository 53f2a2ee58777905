"""What stands between the network and the application: keys, sizes, and slow clients."""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from uvicorn.protocols.http.h11_impl import H11Protocol

from sttm.server.config import ServerConfig
from sttm.server.errors import ApiError, as_api_error

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
log = logging.getLogger("sttm.server")
_DRAIN_SECONDS = 5.0
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Gate:
    """ASGI middleware that checks a request before the application sees it.

    Args:
        app: the application.
        config: keys, limits, and the web pages that may call the server.
        open_paths: that are served without a key.
    """

    def __init__(self, app: Any, config: ServerConfig, open_paths: Sequence[str] = ()) -> None:
        self._app = app
        self._origins = config.origins
        self._open_paths = open_paths
        self._keys = [_digest(key) for key in config.keys]
        self._limits = config.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            if scope["path"] != "/healthz" and scope["method"] != "OPTIONS":
                if scope["path"] not in self._open_paths:
                    self._check_key(scope)
                self._check_host(scope)
                self._check_origin(scope)
            await self._app(scope, await self._limited(scope, receive), sending)
        except Exception as error:  # a client gets no trace
            refusal = as_api_error(error)
            if refusal.status >= 500:
                log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            if not begun:
                await _respond(send, refusal)

    def _check_key(self, scope: Scope) -> None:
        """Compare a key in constant time, with all keys."""
        if not self._keys:
            return
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, given = (headers[0] if len(headers) == 1 else b"").partition(b" ")
        matches = [hmac.compare_digest(_digest(given.strip()), key) for key in self._keys]
        if kind.lower() != b"bearer" or not any(matches):
            raise ApiError(
                401,
                "got no valid API key, expected the header 'Authorization: Bearer KEY'.",
                "invalid_api_key",
            )

    def _check_host(self, scope: Scope) -> None:
        """Refuse names that a web page may have pointed at this machine, if there are no keys."""
        if self._keys:
            return
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        try:
            host = urlsplit(f"//{named[0]}").hostname if len(named) == 1 else None
        except ValueError:
            host = None
        if host != "localhost" and not is_address(host or ""):
            raise ApiError(
                403,
                "got a host that is no address, expected one, or localhost. Whoever runs the "
                "server can set STTM_API_KEYS; then it is served under any name.",
                "host_not_allowed",
            )

    def _check_origin(self, scope: Scope) -> None:
        """Refuse what another web page sends; CORS only keeps it from reading the answer."""
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        allowed = {f"{kind}://{host}" for kind in ("http", "https") for host in hosts}
        allowed.update(origins if "*" in self._origins else self._origins)
        if scope["method"] not in _SAFE_METHODS and not allowed.issuperset(origins):
            raise ApiError(
                403,
                "got a request of a web page that is not this server's own, expected none. Whoever "
                "runs the server can allow it: sttm serve --allow-origin.",
                "origin_not_allowed",
            )

    async def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Bound the bytes of a body, and the time that a client takes to send it."""
        most = self._limits.body_bytes
        declared = [value for name, value in scope["headers"] if name == b"content-length"]
        if declared and int(declared[0]) > most:
            await _drain(receive, most)
            raise _too_large(most)
        loop, left = asyncio.get_running_loop(), most
        deadline, more = loop.time() + self._limits.body_seconds, True

        async def limited() -> MutableMapping[str, Any]:
            nonlocal left, more
            if not more:
                return await receive()  # waits for the client to leave
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise ApiError(
                    408, "got a request that came too slowly. Send it again.", "request_timeout"
                ) from error
            left -= len(message.get("body", b""))
            if left < 0:
                await _drain(receive, most)
                raise _too_large(most)
            more = message.get("more_body", False)
            return message

        return limited


class ImpatientProtocol(H11Protocol):
    """HTTP whose connections end if the head of a request does not come in time."""

    header_seconds = 10.0

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._hurry = self.loop.call_later(self.header_seconds, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Take bytes; wait again if they are only a part of a head."""
        super().data_received(data)
        if not self._waits():
            self._hurry.cancel()
        elif self._hurry.cancelled() or self._hurry.when() < self.loop.time():
            self._hurry = self.loop.call_later(self.header_seconds, self._give_up)

    def connection_lost(self, error: Exception | None) -> None:
        """Stop waiting."""
        self._hurry.cancel()
        super().connection_lost(error)

    def _waits(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _give_up(self) -> None:
        if self._waits() and not self.transport.is_closing():
            self.transport.close()


def is_address(host: str) -> bool:
    """Whether a host is written as an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_open(host: str, keys: Sequence[str]) -> bool:
    """Whether a server would answer anybody in the network."""
    return not keys and host not in ("127.0.0.1", "localhost", "::1")


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


async def _drain(receive: Receive, most: int) -> None:
    """Read on for a while: who is cut off in the middle of sending never sees why."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"got more than {most} bytes, expected at most as many.", "request_too_large"
    )


async def _respond(send: Send, error: ApiError) -> None:
    headers = [
        *((name.lower().encode(), value.encode()) for name, value in error.headers().items()),
        (b"content-type", b"application/json"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error.body()).encode()})
