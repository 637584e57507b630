"""A whole service on a broker with TLS, password and a faulty proxy: API and two workers."""

import os
import shutil
import signal
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import redis

from deepergatgnn.service.lanes import INTERACTIVE
from deepergatgnn.service.queue.producer import GROUP, STREAMS
from tests.conftest import until
from tests.support.brokers import BrokerServer, broker_server
from tests.support.processes import api, heartbeats, small_store, until_ready
from tests.support.proxy import Fault, Proxy, proxy

PASSWORD = "open-sesame"  # noqa: S105 - of a broker that lives as long as a test
WORKERS = 2
STREAM = STREAMS[INTERACTIVE]
# Leases short enough to wait for; a batch of a worker that lives takes a tenth of a second.
TIMES = {"DEEPERGATGNN_LEASE_S": "2", "DEEPERGATGNN_HEARTBEAT_S": "0.5"}


@dataclass
class Stage:
    """The service.

    Attributes:
        address: of the API.
        url: of the broker, as the service has it.
        broker, proxy: where tests inject faults.
        process: the API, and supervisor of the workers.
        store: its models.
    """

    address: str
    url: str
    broker: BrokerServer
    proxy: Proxy
    process: "subprocess.Popen[str]"
    store: Path

    def workers(self) -> list[int]:
        """Return the process ids of the workers that have a heartbeat."""
        return [int(each.worker.split("-")[-2]) for each in heartbeats(self.broker.url)]

    def pending(self) -> Counter[int]:
        """Return the number of requests that each worker holds."""
        with redis.Redis.from_url(self.broker.url, protocol=2) as client:
            found = client.xpending(STREAM, GROUP)
        return Counter({int(each["name"].split(b"-")[-2]): each["pending"] for each in found["consumers"]})

    def waiting(self) -> int:
        """Return the number of requests in the stream."""
        with redis.Redis.from_url(self.broker.url) as client:
            return int(client.xlen(STREAM))

    def metric(self, name: str) -> float:
        """Return a metric of the API, summed over its labels."""
        lines = httpx.get(f"{self.address}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    @contextmanager
    def stopped(self, *processes: int) -> Iterator[None]:
        """Suspend processes within the context."""
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def heal(self) -> None:
        """Remove the fault and wait until the service is ready."""
        self.proxy.fault = Fault()
        until_ready(self.address, WORKERS)
        until(lambda: len(self.workers()) == WORKERS, "both workers have a heartbeat")


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate for loopback and its key."""
    made, key = folder / "broker.crt", folder / "broker.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*command, *names, "-out", made, "-keyout", key], check=True, capture_output=True)
    return made, key


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Run it; without TLS where no certificate can be made."""
    tls, scheme, trusted = None, "redis", ""
    if shutil.which("openssl"):
        made, key = certificate(folder)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(made, key)
        scheme, trusted = "rediss", f"?ssl_ca_certs={made}"
    store = small_store(folder / "store")
    with broker_server(password=PASSWORD) as server, proxy(server.port, tls) as before:
        url = f"{scheme}://:{PASSWORD}@127.0.0.1:{before.port}/0{trusted}"
        with api(url, store, str(WORKERS), **TIMES) as (process, address):
            made_stage = Stage(address, url, server, before, process, store)
            made_stage.heal()
            yield made_stage
