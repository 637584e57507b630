"""The service's protocol in front of a test's application, in the event loop of the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from deepergatgnn.service.http.protocol import Connection, ConnectionLimits


@dataclass
class Recorder:
    """Application that records requests, and answers with the length of their bodies."""

    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[dict[bytes, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record one request."""
        self.headers.append(dict(scope["headers"]))
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.requests.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def listening(
    app: ASGIApp, limits: ConnectionLimits | None = None, protocol: type[Connection] | None = None
) -> AsyncIterator[str]:
    """Yield the address of the application."""
    limits = limits or ConnectionLimits(head_timeout_s=10, max_head=65536, max_connections=100)
    kind = type("LimitedConnection", (protocol or Connection,), {"limits": limits})
    config = uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: kind(config, state, {}), "127.0.0.1", 0)
    watching = asyncio.create_task(limits.watch())
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        watching.cancel()
        server.close()
        for connection in list(limits.open):
            connection.end()
        await asyncio.gather(watching, *state.tasks, return_exceptions=True)
