"""API keys as they are written down: sha256 digests with a name and a rate, never the keys themselves.

A line of the keys file, and an item of DEEPERGATGNN_API_KEYS, is

    NAME sha256:HEX [rate=CRYSTALS_PER_SECOND] [burst=CRYSTALS] [disabled]

A key is 256 random bits, so a plain digest of it cannot be guessed back: no salt, no slow hash.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.http.rate_limits import Rate

PREFIX = "dgn_"  # so that scanners for secrets, and people, know what they have found
DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Key:
    """One key that is known.

    Attributes:
        name: for logs and messages.
        digest: sha256 of the key.
        rate: None: as much as the service can do.
        disabled: known, and refused.
    """

    name: str
    digest: bytes
    rate: Rate | None = None
    disabled: bool = False


def new_key() -> str:
    """A fresh key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str | bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def parse_key(text: str, number: int) -> Key:
    """A key from a line or an item; a text without `sha256:` is the key itself.

    Args:
        text: the line.
        number: of the line: the name of a key that has none, and the place in messages.

    Raises:
        ConfigError: with the number but nothing of the text, which may be a secret.
    """
    words = text.split()
    found = [word for word in words if word.startswith("sha256:")]
    if not found:
        return Key(f"key-{number}", digest_of(text.strip()))
    match = DIGEST.fullmatch(found[0])
    names, options = words[: words.index(found[0])], words[words.index(found[0]) + 1 :]
    if match is None or len(names) > 1 or (names and not NAME.fullmatch(names[0])):
        raise ConfigError(
            f"key {number} is not NAME sha256:HEX: a name is letters, digits, '.', '_', '-'; HEX is 64 digits"
        )
    return _with_options(names[0] if names else f"key-{number}", bytes.fromhex(match[1]), options, number)


def _with_options(name: str, digest: bytes, options: Sequence[str], number: int) -> Key:
    numbers = dict(option.split("=", 1) for option in options if option.startswith(("rate=", "burst=")))
    disabled = options.count("disabled")
    if len(numbers) + disabled != len(options) or disabled > 1:
        raise ConfigError(f"key {number} ({name}): an option is rate=NUMBER, burst=NUMBER or disabled, each once")
    if "burst" in numbers and "rate" not in numbers:
        raise ConfigError(f"key {number} ({name}): burst without rate")
    try:
        values = {word: float(value) for word, value in numbers.items()}
        rate = Rate.of(values["rate"], values.get("burst")) if values else None
    except ValueError as error:
        raise ConfigError(f"key {number} ({name}): {error}") from None
    return Key(name, digest, rate, disabled=bool(disabled))


def read_keys(path: Path) -> list[Key]:
    """The keys of a file; empty lines and those that begin with # do not count.

    Raises:
        ConfigError: if it cannot be read, is no text, or holds no key, a wrong line, or a name or digest twice.
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
    for what, said in (("name", [key.name for key in keys]), ("digest", [key.digest.hex() for key in keys])):
        if twice := sorted({each for each in said if said.count(each) > 1}):
            raise ConfigError(f"the keys file {path} holds the {what} {twice[0]} twice")
    return keys
