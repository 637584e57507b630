"""API keys: sha256 digests with a name and a rate, from the settings and from a file.

A line of the file, and an item of DEEPERGATGNN_API_KEYS, is

    NAME sha256:HEX [rate=CRYSTALS_PER_SECOND] [burst=CRYSTALS] [disabled]

A key has 256 random bits, so a plain digest cannot be inverted by guessing: no salt, no slow hash.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import SecretStr

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.rate_limits import ANONYMOUS, Bucket, Caller, Rate
from deepergatgnn.service.settings import Settings

PREFIX = "dgn_"  # for secret scanners and people
DIGEST = re.compile(r"sha256:[0-9a-fA-F]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LINE = re.compile(rf"(?:(?P<name>{NAME.pattern}) )?sha256:(?P<digest>[0-9a-fA-F]{{64}})(?P<options>( \S+)*)")
_RATE_FIELDS = {"rate": "per_second", "burst": "burst"}
MAX_FILE_BYTES = 1024 * 1024
CHECK_INTERVAL_S = 1.0  # between looks at the keys file
log = structlog.get_logger("keys")


@dataclass(frozen=True)
class Key:
    """One API key.

    Attributes:
        name: for logs and messages.
        digest: sha256 of the key.
        rate: None: no limit.
        disabled: whether requests with it get 403.
    """

    name: str
    digest: bytes
    rate: Rate | None = None
    disabled: bool = False


class ApiKeys:
    """Accepted keys: those of the settings, and those of a file that is read again when it changes.

    If the changed file is invalid, the keys before it stay and an error is logged. To refuse every key, mark them
    `disabled`.

    Args:
        items: of the settings.
        path: of the file.

    Raises:
        ConfigError: if a key is invalid, or the file cannot be read or has none.
    """

    def __init__(self, items: Sequence[SecretStr] = (), path: Path | None = None) -> None:
        self._path = path
        self._items = [parse_key(secret.get_secret_value(), number) for number, secret in enumerate(items, 1)]
        self._keys: dict[bytes, tuple[Key, Bucket | None]] = {}
        self._checked, self._signature = time.monotonic(), _signature(path)
        self._replace(read_keys(path) if path is not None else [])

    @classmethod
    def of(cls, settings: Settings) -> "ApiKeys":
        """Return the keys of the settings."""
        return cls(settings.api_keys, settings.api_keys_file)

    def __bool__(self) -> bool:
        """Return whether requests need a key."""
        return bool(self._keys)

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Return the caller of a request with these headers, disabled or not; anonymous if there are no keys.

        Raises:
            ServiceError: 401 missing or wrong key.
        """
        if not self:
            return ANONYMOUS
        self._refresh()
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = digest_of(key.encode("latin-1"))  # the bytes that were sent
        # Every digest is compared, so that the time does not depend on which one matches.
        found = [entry for known, entry in self._keys.items() if hmac.compare_digest(digest, known)]
        if not found:
            raise ServiceError("unauthorized", "the key is missing or wrong: send Authorization: Bearer KEY")
        matched, bucket = found[0]
        return Caller(matched.name, bucket, matched.disabled)

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._checked < CHECK_INTERVAL_S:
            return
        self._checked = now
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            keys = read_keys(self._path)
        except ConfigError as error:
            # No traceback: the error is in the file.
            log.error("invalid keys file ignored, the previous keys stay", error=str(error))  # noqa: TRY400
            return
        self._replace(keys)
        log.info("keys file reloaded", keys=len(keys))

    def _replace(self, keys: Sequence[Key]) -> None:
        """Accept these keys after those of the settings; a key with the same rate as before keeps its bucket."""
        before = self._keys
        self._keys = {}
        for key in (*self._items, *keys):
            old, bucket = before.get(key.digest, (None, None))
            if old is None or old.rate != key.rate:
                bucket = Bucket(key.rate) if key.rate else None
            self._keys[key.digest] = (key, bucket)


def new_key() -> str:
    """Return a new random key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str | bytes) -> bytes:
    """Return the sha256 of a key."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def parse_key(text: str, number: int) -> Key:
    """Return the key of a line or an item; a text without `sha256:` is the key itself.

    Args:
        text: the line.
        number: of the line: the name of a key that has none, and the place in messages.

    Raises:
        ConfigError: with the number but nothing of the text, which may be a secret.
    """
    words = text.split()
    if not any(word.startswith("sha256:") for word in words):
        return Key(f"key-{number}", digest_of(text.strip()))
    match = LINE.fullmatch(" ".join(words))
    if match is None:
        raise ConfigError(
            f"key {number} is not NAME sha256:HEX: a name is letters, digits, '.', '_', '-'; HEX is 64 digits"
        )
    name, options = match["name"] or f"key-{number}", match["options"].split()
    values = dict(option.split("=", 1) for option in options if option.startswith(("rate=", "burst=")))
    disabled = options.count("disabled")
    if len(values) + disabled != len(options) or disabled > 1:
        raise ConfigError(f"key {number} ({name}): an option is rate=NUMBER, burst=NUMBER or disabled, each once")
    if "burst" in values and "rate" not in values:
        raise ConfigError(f"key {number} ({name}): burst without rate")
    try:
        rate = Rate.of(**{_RATE_FIELDS[word]: float(value) for word, value in values.items()}) if values else None
    except ValueError as error:
        raise ConfigError(f"key {number} ({name}): {error}") from None
    return Key(name, bytes.fromhex(match["digest"]), rate, disabled=bool(disabled))


def read_keys(path: Path) -> list[Key]:
    """Return the keys of a file; empty lines and lines that begin with # are skipped.

    Raises:
        ConfigError: if it cannot be read, is no text, or has no key, an invalid line, or a name or digest twice.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"the keys file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the keys file {path} is not UTF-8") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"the keys file {path} has more than {MAX_FILE_BYTES:,} bytes")
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if DIGEST.search(line) is None:
            raise ConfigError(
                f"the keys file {path}: line {number} has no sha256:HEX; plain keys are not kept in files"
            )
        keys.append(parse_key(line, number))
    if not keys:
        raise ConfigError(f"the keys file {path} holds no key: make one with `deepergatgnn keys new NAME`")
    for what, values in (("name", [key.name for key in keys]), ("digest", [key.digest.hex() for key in keys])):
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            raise ConfigError(f"the keys file {path} holds the {what} {repeated[0]} twice")
    return keys


def _signature(path: Path | None) -> tuple[int, int, int] | None:
    """Return the time, inode and size of a file, one of which changes when the file does."""
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino, status.st_size) if status is not None else None
