"""The HTTP server, uvicorn: its socket, its time limit for slow clients, and its end."""

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sports_lightning.errors import UserError
from sports_lightning.serve.app import build_app
from sports_lightning.serve.service import Service

log = logging.getLogger(__name__)

_BACKLOG = 2048
_SLOW = b'{"error":"the request has not arrived in time"}'


@contextmanager
def open_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A bound TCP socket, on which nobody listens yet.

    Args:
        host: an IP address of this machine, or "localhost".
        port: 0 for any free one.

    Raises:
        UserError: the port is in use or not permitted, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"port={port} of {host} is in use: choose another one, or port=0 for any free one"
            elif error.errno == errno.EACCES:
                problem = f"port={port} is not permitted to this user: choose one above 1023"
            else:
                problem = f"host={host} is not an address of this machine ({error.strerror})"
            raise UserError(problem) from error
        yield bound


def run_server(service: Service, bound: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then those in progress are answered, and no new ones are taken.

    Raises:
        RuntimeError: the network has failed.
    """
    host, port = bound.getsockname()[:2]
    if not ip_address(host).is_loopback:
        log.warning("anyone who can reach %s can use this server: it asks for no password", host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    log.info("serving %s at %s (Ctrl-C stops)", service.cfg.ckpt_path, address)
    Server(service).run(sockets=[bound])
    log.info("stopped after %d images in %d forward passes", service.network.images, service.network.batches)
    if not service.network.is_running:
        raise RuntimeError("the network has stopped")


class Server(uvicorn.Server):
    """Ends with the first signal once all requests are answered, and also if the network has stopped.

    Args:
        service: answers.
    """

    def __init__(self, service: Service) -> None:
        config = uvicorn.Config(
            build_app(service),
            http=_protocol(service.limits.seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
        )
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without raising the signal again at the end: it is how a server is stopped, not a failure."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows handlers in the main thread only
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def on_tick(self, counter: int) -> bool:
        """Whether to end."""
        return await super().on_tick(counter) or not self.service.network.is_running


def _protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which waits for the head of a request for `seconds` only, not forever."""

    class Protocol(H11Protocol):
        _deadline: asyncio.TimerHandle

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._deadline = self.loop.call_later(seconds, self._close_if_idle)

        def on_response_complete(self) -> None:
            self._deadline.cancel()
            self._deadline = self.loop.call_later(seconds, self._close_if_idle)
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._deadline.cancel()
            super().connection_lost(exc)

        def _close_if_idle(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                return  # a request is being answered, within its own time limit
            if self.cycle is None:
                self.transport.write(
                    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%s" % (len(_SLOW), _SLOW)
                )
            self.transport.close()

    return Protocol
