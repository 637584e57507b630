"""API keys: compared by hash and in constant time; without keys everything is open, on loopback only."""

import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Request
from pydantic import SecretStr

from service.errors import ServiceError

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/"})


class Keys:
    """The keys that are let in.

    Args:
        keys: none means no authentication.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._hashes = [_hash(key.get_secret_value()) for key in keys]

    def check(self, request: Request) -> None:
        """Return if the request may pass.

        Raises:
            ServiceError: 401 missing or wrong key.
        """
        if not self._hashes or request.url.path in OPEN_PATHS:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        presented = _hash(key)
        # Every hash is compared, so that the time does not tell which one was close.
        if sum(hmac.compare_digest(presented, known) for known in self._hashes) == 0:
            raise ServiceError(401, "unauthorized", "the key is missing or wrong: send Authorization: Bearer KEY")


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
