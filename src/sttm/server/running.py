"""Run a server until it is told to stop."""

import socket
from collections.abc import Callable

import uvicorn

from sttm.errors import ConfigError
from sttm.server.answering import Service
from sttm.server.app import create_app
from sttm.server.security import ImpatientProtocol

_GRACE_SECONDS = 30  # for answers that are open when the server is told to stop


def make_server(service: Service) -> uvicorn.Server:
    """Make the server of a service, with its limits on slow clients."""

    class Protocol(ImpatientProtocol):
        header_seconds = service.config.limits.header_seconds

    config = uvicorn.Config(
        create_app(service),
        http=Protocol,
        ws="none",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def run(service: Service, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is told to stop (Ctrl-C, SIGTERM); open answers are finished first.

    Args:
        service: what to serve.
        host: address to listen at.
        port: 0 takes a free one.
        ready: called with the server's URL once it listens.

    Raises:
        ConfigError: the address is not free, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        service.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error}). Choose another port."
        ) from error
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    with listener:
        ready(f"http://{shown}:{listener.getsockname()[1]}")
        make_server(service).run(sockets=[listener])
