"""Access control: API keys, and the Host and Origin that a request may have.

With keys, every path but the open ones needs one, whether it exists or not. Without, the service listens on loopback
only. As any page in a browser on the same machine can send requests there, the Host must be a loopback name (a page
could otherwise reach the service through DNS rebinding) and cross-origin requests are refused.
"""

from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.api_keys import ApiKeys
from deepergatgnn.service.http.rate_limits import ANONYMOUS
from deepergatgnn.service.http.security_headers import header
from deepergatgnn.service.settings import LOOPBACK, Settings

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
OPEN_PATHS = HEALTH_PATHS | {"/", "/docs", "/openapi.json"}  # they show nothing that is not in the source
METRICS_PATH = "/metrics"


class AccessControl:
    """ASGI middleware that sets `request.state.caller`.

    Args:
        app: the rest of the application.
        keys: that are accepted.
        settings: hosts, origins, and whether metrics need no key.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, settings: Settings) -> None:
        self.app = app
        self._keys = keys
        self._origins = frozenset(settings.cors_origins)
        checked = settings.allowed_hosts or not keys
        self._hosts = LOOPBACK | {settings.host, *settings.allowed_hosts} if checked else frozenset()
        self._open = OPEN_PATHS | ({METRICS_PATH} if settings.metrics_open else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            ServiceError: 401 missing or wrong key, 403 disabled key or cross-origin request, 421 wrong host.
        """
        if scope["type"] == "http":
            path = scope["path"]
            if path not in HEALTH_PATHS:  # a probe may use any name or address of this machine
                self._check_host_and_origin(scope)
            is_open = path in self._open or not self._keys
            caller = ANONYMOUS if is_open else self._keys.identify(Headers(scope=scope))
            scope["state"]["caller"] = caller  # named in the log, even if refused
            caller.check_enabled()
        await self.app(scope, receive, send)

    def _check_host_and_origin(self, scope: Scope) -> None:
        host = header(scope, b"host") or ""
        if self._hosts and _host_name(host) not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            raise ServiceError("wrong_host", f"the Host must be one of {names}: see DEEPERGATGNN_ALLOWED_HOSTS")
        origin = header(scope, b"origin")
        if origin is None or self._keys or origin in self._origins:
            return
        if origin.lower() not in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}:
            raise ServiceError("wrong_origin", "cross-origin request refused: see DEEPERGATGNN_CORS_ORIGINS")


@lru_cache(maxsize=16)
def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets; empty if it is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if not set(host) & set("/?#@\\") else ""
    except ValueError:
        return ""
