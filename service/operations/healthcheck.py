"""Health checks for containers: exit status 0 if the named part is healthy, else 1.

    python -m deepergatgnn.service.operations.healthcheck api|worker

They are meant to run beside the process they judge, with its settings.
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

PATIENCE_S = 3.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - an API that listens everywhere is asked on loopback


def check_api(settings: Settings) -> None:
    """Return if the API's event loop answers.

    Raises:
        OSError: if it does not, or not with 200.
    """
    host = EVERYWHERE.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != HTTPStatus.OK:
        raise OSError(f"/healthz answered {status}")


async def check_worker(settings: Settings) -> None:
    """Return if a worker of this host, which in a container is this container, gave a sign of life lately.

    A worker stops to give one when its device hangs, so a process that merely exists is not healthy.

    Raises:
        OSError: if none did, or the broker is not known.
        RedisError: if the broker cannot be reached.
    """
    if settings.redis_url is None:
        raise OSError("the broker is not known: set DEEPERGATGNN_REDIS_URL")
    client = connect(settings.redis_url.get_secret_value())
    try:
        async with asyncio.timeout(PATIENCE_S):
            heartbeats = await worker_heartbeats(client).alive()
    finally:
        await client.aclose()
    if not any(each.worker.startswith(f"{socket.gethostname()}-") for each in heartbeats):
        raise OSError("no heartbeat of this worker")


def main(arguments: list[str]) -> int:
    """Run the check that is named; say why if it fails.

    Returns:
        Exit status: 0 healthy, 1 not, 2 for a wrong argument.
    """
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
