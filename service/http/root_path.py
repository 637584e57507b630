"""The path beneath which a reverse proxy serves all this: taken off requests, and put before redirections."""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPath:
    """ASGI middleware around everything: inside, paths are as without a proxy.

    Whether the proxy takes the root path off itself does not matter.

    Args:
        app: the rest of the application.
        root_path: as of the settings, `/crystals`.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self._root, self._beneath = root_path, f"{root_path}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path == self._root or path.startswith(self._beneath):
            scope["path"] = path.removeprefix(self._root) or "/"
            raw = scope.get("raw_path") or b""
            scope["raw_path"] = raw.removeprefix(self._root.encode()) or b"/"

        async def redirected(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, self._outside(value) if name == b"location" else value) for name, value in message["headers"]
                ]
            await send(message)

        await self.app(scope, receive, redirected)

    def _outside(self, location: bytes) -> bytes:
        """Where a redirection leads as the client sees it, whatever the proxy calls this host."""
        target = urlsplit(location.decode("latin-1"))
        query = f"?{target.query}" if target.query else ""
        return f"{self._root}{target.path}{query}".encode("latin-1")
