"""The door: who may come in, by which name the service is called, and from which pages.

With keys, every path but the open ones needs one, known or not. Without, the service listens on loopback only, and as
any page in a browser on this machine can send requests there, only requests for a loopback name are answered (so a page
cannot reach the service under a name of its own, DNS rebinding) and none that another page sent.
"""

import hmac
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from fastapi import Request
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.api_keys import Key, digest_of, parse_key, read_keys
from deepergatgnn.service.http.problems import problem_of
from deepergatgnn.service.http.rate_limits import ANONYMOUS, Bucket, Caller
from deepergatgnn.service.http.security_headers import header
from deepergatgnn.service.settings import LOOPBACK, Settings

# The page and the documents show nothing that is not in the source; health is for whoever starts and stops the service.
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
OPEN_PATHS = HEALTH_PATHS | {"/", "/docs", "/openapi.json"}
METRICS_PATH = "/metrics"
FRESH_S = 1.0  # how long the keys file is believed without a look at it
log = structlog.get_logger("keys")


class Keys:
    """The keys that are let in: those of the settings, and those of a file that is read again when it changes.

    A file that was changed into something that is no keys file is not taken over: the keys before it stay, and the log
    says so. To let nobody in, mark the keys `disabled`.

    Args:
        written: of the settings, a line each.
        path: of the file.

    Raises:
        ConfigError: if a key is wrong, or the file cannot be read or holds none.
    """

    def __init__(self, written: Sequence[SecretStr] = (), path: Path | None = None) -> None:
        self._path = path
        self._written = [parse_key(secret.get_secret_value(), number) for number, secret in enumerate(written, 1)]
        self._known: dict[bytes, tuple[Key, Bucket | None]] = {}
        self._looked, self._signature = time.monotonic(), _signature(path)
        self._take(read_keys(path) if path is not None else [])

    @classmethod
    def of(cls, settings: Settings) -> "Keys":
        """The keys of the settings.

        Raises:
            ConfigError: as the class.
        """
        return cls(settings.api_keys, settings.api_keys_file)

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self._known)

    def check(self, headers: Mapping[str, str]) -> Caller:
        """Who sends a request with these headers and is let in; anybody, if there are no keys.

        Raises:
            ServiceError: 401 missing or wrong key, 403 disabled key.
        """
        caller = self.identify(headers)
        caller.admit()
        return caller

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Who sends a request with these headers, let in or not; anybody, if there are no keys.

        Raises:
            ServiceError: 401 missing or wrong key.
        """
        if not self:
            return ANONYMOUS
        self._refresh()
        presented = digest_of(_presented(headers))
        # Every digest is compared, so that the time does not tell which one was close.
        found = [entry for digest, entry in self._known.items() if hmac.compare_digest(presented, digest)]
        if not found:
            raise ServiceError("unauthorized", "the key is missing or wrong: send Authorization: Bearer KEY")
        key, bucket = found[0]
        return Caller(key.name, bucket, key.disabled)

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < FRESH_S:
            return
        self._looked = now
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            found = read_keys(self._path)
        except ConfigError as error:
            # No stack: what is wrong is in the file.
            log.error("keys file not taken over, the keys before it stay", error=str(error))  # noqa: TRY400
            return
        self._take(found)
        log.info("keys file read again", keys=len(found))

    def _take(self, found: Sequence[Key]) -> None:
        """Make these, after those of the settings, the known ones; a key whose rate stays keeps what it has spent."""
        before = self._known
        self._known = {}
        for key in (*self._written, *found):
            old = before.get(key.digest)
            kept = old is not None and old[0].rate == key.rate
            bucket = old[1] if old is not None and kept else Bucket(key.rate) if key.rate else None
            self._known[key.digest] = (key, bucket)


class AccessControl:
    """ASGI middleware that lets a request in or answers with a problem; a route finds `request.state.caller`.

    Args:
        app: the rest of the application.
        keys: that are let in.
        settings: of the service: names, origins, and whether metrics are open.
    """

    def __init__(self, app: ASGIApp, keys: Keys, settings: Settings) -> None:
        self.app = app
        self._keys = keys
        self._origins = frozenset(settings.cors_origins)
        named = settings.allowed_hosts or not keys
        self._names = LOOPBACK | {settings.host, *settings.allowed_hosts} if named else frozenset()
        self._open = OPEN_PATHS | ({METRICS_PATH} if settings.metrics_open else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, open_to_all = scope["path"], scope["path"] in self._open or not self._keys
        try:
            if path not in HEALTH_PATHS:  # whoever asks for it may know this host by any name or address
                self._check_name(scope)
            caller = ANONYMOUS if open_to_all else self._keys.identify(Headers(scope=scope))
            scope["state"]["caller"] = caller  # named in the log, let in or not
            caller.admit()
        except ServiceError as error:
            await problem_of(Request(scope), error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_name(self, scope: Scope) -> None:
        """Check the Host, and without keys the Origin, which only browsers send.

        Raises:
            ServiceError: 421 the service is not called so, 403 sent by another page.
        """
        host = header(scope, b"host") or ""
        if self._names and _name(host) not in self._names:
            names = ", ".join(sorted(self._names))
            raise ServiceError("wrong_host", f"this service is called {names}: see DEEPERGATGNN_ALLOWED_HOSTS")
        origin = header(scope, b"origin")
        if origin is None or self._keys or origin in self._origins:
            return
        if origin.lower() not in {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}:
            raise ServiceError("wrong_origin", "another page sent this: see DEEPERGATGNN_CORS_ORIGINS")


def _presented(headers: Mapping[str, str]) -> bytes:
    """The key of a request, in the bytes that were sent."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    key = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return key.encode("latin-1")


@lru_cache(maxsize=16)
def _name(host: str) -> str:
    """The name or address in a Host header, without port and brackets; nothing for what is no host."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if not set(host) & set("/?#@\\") else ""
    except ValueError:
        return ""


def _signature(path: Path | None) -> tuple[int, int, int] | None:
    """What changes when a file does."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino, status.st_size) if status is not None else None
