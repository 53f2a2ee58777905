"""Downloads from allowed hosts that cannot be turned against the server's own network."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from sttm.server.errors import ApiError, bad_request

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 3
_PARAM = "messages"
_FAILURES = (
    *(httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError),
    *(httpcore.UnsupportedProtocol, ssl.SSLError),
)
_CHUNK_SECONDS = 10.0  # for the next bytes
_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "sttm",
    "Accept-Encoding": "identity",
    "Accept": "video/*,*/*;q=0.5",
}


class Fetcher:
    """Downloads files.

    Args:
        hosts: from which; ``*.example.com`` stands for all names below it.
        private: whether these may have private addresses.
        most: bytes of a file.
        seconds: that a download may take, redirects included.
    """

    def __init__(self, hosts: Sequence[str], *, private: bool, most: int, seconds: float) -> None:
        self._hosts = hosts
        self._most = most
        self._seconds = seconds
        self._backend = GuardedBackend(private)

    async def fetch(self, url: str, path: Path) -> None:
        """Download a file.

        Every redirect is checked as the URL itself is.

        Raises:
            ApiError: a host or an address that is not allowed, too much or too slow, or no answer.
        """
        try:
            async with asyncio.timeout(self._seconds):
                for _ in range(_MOST_REDIRECTS + 1):
                    self._check(url)
                    found = await self._get(url, path)
                    if found is None:
                        return
                    url = found
        except TimeoutError as error:
            raise _unreachable(f"more than {self._seconds:g} s") from error
        except _FAILURES as error:
            raise _unreachable(type(error).__name__) from error
        raise _unreachable(f"more than {_MOST_REDIRECTS} redirects")

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, _ = (parts.hostname or "").rstrip(".").lower(), parts.port
        except ValueError as error:
            raise bad_request("video_url: got a URL that cannot be read.", _PARAM) from error
        known = parts.scheme in ("http", "https") and not (parts.username or parts.password)
        if not known or not host or not is_allowed_host(host, self._hosts):
            raise ApiError(
                403,
                "video_url: got a host that this server does not download from (sttm serve "
                "--allow-host). Upload the file, or ask whoever runs the server.",
                "host_not_allowed",
                param=_PARAM,
            )

    async def _get(self, url: str, path: Path) -> str | None:
        """Download one URL; return where it redirects to, or None."""
        limits = dict.fromkeys(("connect", "read", "write", "pool"), _CHUNK_SECONDS)
        async with (
            httpcore.AsyncConnectionPool(network_backend=self._backend) as pool,
            pool.stream(
                "GET", _encoded(url), headers=_HEADERS, extensions={"timeout": limits}
            ) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return urljoin(url, headers[b"location"].decode("latin-1"))
            if response.status != 200:
                raise _unreachable(f"status {response.status}")
            size = 0
            with path.open("wb") as file:
                async for chunk in response.aiter_stream():
                    size += len(chunk)
                    if size > self._most:
                        raise ApiError(
                            413,
                            f"video_url: got more than {self._most} bytes, expected at most as "
                            "many. Cut the video.",
                            "video_too_large",
                            param=_PARAM,
                        )
                    await asyncio.to_thread(file.write, chunk)
        return None


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the very address that was checked, so that a name cannot change in between.

    Args:
        private: whether private addresses are allowed.
    """

    def __init__(self, private: bool) -> None:
        self._private = private
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve a name, check all its addresses, and connect to the first."""
        try:
            addresses = await resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        if not addresses or not (self._private or all(map(is_public, addresses))):
            raise ApiError(
                403,
                "video_url: got a host with an address inside a private network, expected a "
                "public one.",
                "address_not_allowed",
                param=_PARAM,
            )
        return await self._backend.connect_tcp(addresses[0], port, timeout, local_address)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_allowed_host(host: str, allowed: Iterable[str]) -> bool:
    """Whether a host is in a list in which ``*.example.com`` stands for all names below it."""
    patterns = [pattern.lower().rstrip(".") for pattern in allowed]
    below = tuple(pattern[1:] for pattern in patterns if pattern.startswith("*."))
    return host in patterns or host.endswith(below)


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, whatever it is wrapped into."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return ip.is_global and not ip.is_multicast


def _encoded(url: str) -> str:
    """Escape what no request line may hold."""
    return "".join(c if "!" <= c <= "~" else "".join(f"%{b:02X}" for b in c.encode()) for c in url)


def _unreachable(why: str) -> ApiError:
    return ApiError(
        400,
        f"video_url: got no video from its host ({why}). Check the URL, or upload the file.",
        "video_not_reachable",
        param=_PARAM,
    )
