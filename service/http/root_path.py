"""The path beneath which a reverse proxy serves the API: removed from requests, added to redirections."""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPath:
    """ASGI middleware, the outermost one: inside, paths are as without a proxy.

    The proxy may or may not remove the root path itself.

    Args:
        app: the rest of the application.
        root_path: as in the settings, such as `/crystals`.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self._root, self._beneath = root_path, f"{root_path}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path == self._root or path.startswith(self._beneath):
            scope["path"] = path.removeprefix(self._root) or "/"
            raw = scope.get("raw_path") or b""
            scope["raw_path"] = raw.removeprefix(self._root.encode()) or b"/"

        async def send_redirected(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, self._outside(value) if name == b"location" else value) for name, value in message["headers"]
                ]
            await send(message)

        await self.app(scope, receive, send_redirected)

    def _outside(self, location: bytes) -> bytes:
        """Return a redirection's path as the client sees it, without the host, which only the proxy knows."""
        target = urlsplit(location.decode("latin-1"))
        query = f"?{target.query}" if target.query else ""
        return f"{self._root}{target.path}{query}".encode("latin-1")
