"""Client of the broker: redis-py with one timeout for a command or a pipeline."""

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError

from deepergatgnn.errors import ConfigError

REPLY_S = 10.0  # longer than any blocking command of the service


class _Pipeline(Pipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with asyncio.timeout(REPLY_S):
            return await super().execute(raise_on_error)


class _Client(Redis):
    """Client with a timeout for a whole command or pipeline.

    redis-py's `socket_timeout` sets a timer for every reply of a pipeline and makes a task for every command.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with asyncio.timeout(REPLY_S):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def connect(url: str) -> "Redis":
    """Return a client of the broker at redis://, rediss:// (TLS) or unix://; it connects at the first command.

    Commands fail fast, so that callers can answer 503.

    Raises:
        ConfigError: if redis-py cannot parse the URL, which may hold a password and is not in the message.
    """
    try:
        client: Redis = _Client.from_url(
            url,
            protocol=2,  # one shape of replies on every server
            socket_connect_timeout=2.0,
            socket_timeout=None,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[ReadOnlyError],  # the server became a replica: resolve the name again and reconnect
        )
    except ValueError:
        example = "write redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH"
        raise ConfigError(f"DEEPERGATGNN_REDIS_URL: redis-py cannot read it: {example}") from None
    return client
