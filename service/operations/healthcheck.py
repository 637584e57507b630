"""Health checks of containers, run inside them with the settings of the checked process.

python -m deepergatgnn.service.operations.healthcheck api|worker
"""

import asyncio
import http.client
import socket
import sys
from http import HTTPStatus

from redis.exceptions import RedisError

from deepergatgnn.environment import read_env_file
from deepergatgnn.errors import ConfigError
from deepergatgnn.service.queue.heartbeats import worker_heartbeats
from deepergatgnn.service.queue.redis_client import connect
from deepergatgnn.service.settings import Settings, read_settings

TIMEOUT_S = 3.0
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to reach an API that listens everywhere


def check_api(settings: Settings) -> None:
    """Raise unless /healthz answers with 200.

    Raises:
        OSError, HTTPException: if it does not.
    """
    host = LOOPBACK.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != HTTPStatus.OK:
        raise OSError(f"/healthz answered {status}")


async def check_worker(settings: Settings) -> None:
    """Raise unless the broker has a heartbeat of a worker on this host, which is this container.

    Raises:
        OSError: if there is none, or no broker is set.
        RedisError: if the broker cannot be reached.
    """
    if settings.redis_url is None:
        raise OSError("no broker: set DEEPERGATGNN_REDIS_URL")
    client = connect(settings.redis_url.get_secret_value())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            heartbeats = await worker_heartbeats(client).alive()
    finally:
        await client.aclose()
    if not any(each.worker.startswith(f"{socket.gethostname()}-") for each in heartbeats):
        raise OSError("no heartbeat of this worker")


def main(arguments: list[str]) -> int:
    """Run a check, print the reason of a failure, return the exit status: 0 healthy, 1 unhealthy, 2 usage."""
    try:
        read_env_file()
        match arguments:
            case ["api"]:
                check_api(read_settings())
            case ["worker"]:
                asyncio.run(check_worker(read_settings()))
            case _:
                print("usage: python -m deepergatgnn.service.operations.healthcheck api|worker", file=sys.stderr)  # noqa: T201 - a command
                return 2
    except ConfigError as error:
        print(f"unhealthy: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    except (OSError, RedisError, http.client.HTTPException) as error:
        print(f"unhealthy: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
