"""The worker process of a supervisor: python -m deepergatgnn.service.worker PID [--owns-broker]."""

import argparse
import os
import sys

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.settings import read_settings
from deepergatgnn.service.worker.process import run


def main() -> int:
    """Run a worker with the settings in the environment; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m deepergatgnn.service.worker")
    parser.add_argument("supervisor", type=int, help="process id of the supervisor")
    parser.add_argument("--owns-broker", action="store_true", help="the embedded broker ends with the supervisor")
    arguments = parser.parse_args()
    try:
        settings = read_settings()
        assert settings.redis_url is not None, "the supervisor sets it"  # noqa: S101
        url = settings.redis_url.get_secret_value()
        run(settings, url, arguments.supervisor, owns_broker=arguments.owns_broker)
    except ConfigError as error:
        print(f"deepergatgnn: {error}", file=sys.stderr)  # noqa: T201 - a command
        return os.EX_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
