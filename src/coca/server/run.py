"""Run the application in this process by uvicorn."""

import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from coca.core.errors import ConfigError
from coca.server.app import create_app
from coca.server.connections import (
    BACKLOG,
    ConnectionLimits,
    limited_protocol,
    max_connections,
)
from coca.server.service import Service
from coca.server.settings import ServerSettings


def run(
    service: Service,
    settings: ServerSettings,
    *,
    log: Callable[[str], None],
    open_page: bool = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM; requests in progress have some seconds to finish.

    Args:
        service: Open collections and model.
        settings: Settings of the service.
        log: Called with the address when the service is ready.
        open_page: Open the address in a browser.

    Raises:
        ConfigError: The address cannot be used.
    """
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    limits = ConnectionLimits(
        header_timeout_s=settings.header_timeout_s,
        read_timeout_s=settings.body_timeout_s,
        max_connections=max_connections(),
    )
    config = uvicorn.Config(
        create_app(service, settings),
        http=limited_protocol(limits),
        # Where no connection waits for a header, further requests get status 503.
        limit_concurrency=limits.max_connections + 1,
        backlog=BACKLOG,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        log_level="warning",
        access_log=False,
    )
    log(f"serving {', '.join(service.collections)} at {url}; stop by Ctrl-C")
    if open_page:
        # The socket listens already, so the browser only waits.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; a response takes 40 ms more
    # without it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the service cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    return listener
