"""API and worker processes on a broker, clients that post without pause, and a store that starts fast."""

import asyncio
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import redis

from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.messages import UnreadableError, WorkerHeartbeat
from tests.conftest import running, until

CIF = Path("examples/ZrO2.cif").read_bytes()
HEADERS = {"Content-Type": "chemical/x-cif"}
PREDICT = "/predict?attention=none"
MODEL, OLD, NEW = "bulk-modulus", "1.0.0", "1.1.0"
# Of the contract: what a request may end with when something is wrong behind the API.
DOCUMENTED = {
    429: {"overloaded"},
    503: {"broker_unavailable", "no_worker", "draining", "parsing_delayed"},
    504: {"deadline_passed"},
}


def small_store(root: Path, *versions: str) -> Path:
    """A store of one shipped model in some of its versions, the first one in production."""
    shipped = ModelStore()
    (root / MODEL).mkdir(parents=True)
    for version in versions or (OLD,):
        folder = shipped.folder(f"{MODEL}@{version}")
        shutil.copytree(folder, root / MODEL / version)
        shutil.copy(folder.with_name(f"{version}.sha256"), root / MODEL)
    (root / MODEL / "production").write_text(f"{(versions or (OLD,))[0]}\n", "utf-8")
    return root


def heartbeats(url: str) -> list[WorkerHeartbeat]:
    """Return the heartbeats of the workers that are alive."""
    with redis.Redis.from_url(url) as client:
        seconds, _ = client.time()
        names = client.zrangebyscore("deepergatgnn:workers", seconds, "+inf")
        found = client.hmget("deepergatgnn:workers:heartbeats", names) if names else []
    readable = []
    for content in found:
        with suppress(UnreadableError):
            readable.append(WorkerHeartbeat.unpack(content or b""))
    return readable


@contextmanager
def api(url: str, store: Path, workers: str = "0", **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run an API process on a broker, with workers or without; yields it and its address."""
    environment |= {"DEEPERGATGNN_REDIS_URL": url, "DEEPERGATGNN_MODEL_STORE": str(store)}
    with running("serve", "--port", "0", "--workers", workers, ready="^ready on ", **environment) as (process, line):
        yield process, line.removeprefix("ready on ")


@contextmanager
def worker(url: str, store: Path, seen_at: str = "", **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a worker until the block ends; yields once the broker (at `seen_at`, if not at its URL) has its heartbeat."""
    environment |= {"DEEPERGATGNN_REDIS_URL": url, "DEEPERGATGNN_MODEL_STORE": str(store)}
    with running("worker", ready=None, **environment) as (process, _):
        until(lambda: is_seen(process, seen_at or url), "the worker's heartbeat", 120)
        yield process


def is_seen(process: "subprocess.Popen[str]", url: str) -> bool:
    """Whether the broker has the heartbeat of a worker."""
    assert process.poll() is None, "the worker ended"
    return any(f"-{process.pid}-" in each.worker for each in heartbeats(url))


def admitted(address: str, lane: str) -> float:
    """Crystals that the API has let into a lane and not answered yet."""
    pattern = rf'^deepergatgnn_admitted{{lane="{lane}"}} (\S+)$'
    found = re.search(pattern, httpx.get(f"{address}/metrics", timeout=60).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ready(address: str) -> bool:
    """Whether the API says so."""
    return httpx.get(f"{address}/readyz", timeout=60).status_code == httpx.codes.OK


def until_ready(address: str, workers: int = 1) -> None:
    """Wait until the API sees its broker and that many workers."""

    def seen() -> bool:
        reply = httpx.get(f"{address}/readyz", timeout=60)
        return reply.status_code == httpx.codes.OK and reply.json()["workers"] == workers

    until(seen, f"the API is ready with {workers} workers")


def documented(reply: httpx.Response) -> bool:
    """Whether a reply is an answer or one of the documented errors, with what belongs to it."""
    if reply.status_code == httpx.codes.OK:
        return bool(reply.json()["predictions"])
    said = reply.json()
    later = reply.status_code == httpx.codes.GATEWAY_TIMEOUT or int(reply.headers["retry-after"]) >= 1
    return said["code"] in DOCUMENTED.get(reply.status_code, set()) and later


async def post(client: httpx.AsyncClient, address: str = "", **headers: str) -> httpx.Response:
    """Post the example crystal, to the address of the client if no other is given."""
    return await client.post(f"{address}{PREDICT}", content=CIF, headers=HEADERS | headers)


@dataclass
class Load:
    """Clients that post again as soon as they have an answer.

    Attributes:
        replies: what came back.
        spans: `time.monotonic()` of the question and of the answer, of each reply.
        broken: what did not come back.
    """

    replies: list[httpx.Response] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    broken: list[httpx.HTTPError] = field(default_factory=list)
    stopping: bool = False

    @property
    def statuses(self) -> Counter[int]:
        """Number of replies by status."""
        return Counter(reply.status_code for reply in self.replies)

    @property
    def versions(self) -> list[str]:
        """Version that answered, in the order of the answers."""
        return [reply.json()["predictions"][0]["version"] for reply in self.replies]

    async def more(self, count: int = 40, seconds: float = 60) -> None:
        """Wait for `count` more replies."""
        wanted, end = len(self.replies) + count, time.monotonic() + seconds
        while len(self.replies) < wanted:
            assert time.monotonic() < end, f"{len(self.replies)} replies, {wanted} wanted, {self.broken[:3]}"
            await asyncio.sleep(0.02)

    async def post_on(self, client: httpx.AsyncClient) -> None:
        """Post again and again, as one client."""
        while not self.stopping:
            asked = time.monotonic()
            try:
                self.replies.append(await post(client))
                self.spans.append((asked, time.monotonic()))
            except httpx.HTTPError as error:
                self.broken.append(error)
                await asyncio.sleep(0.1)


@asynccontextmanager
async def load(address: str, clients: int = 6) -> AsyncIterator[Load]:
    """Clients that post without pause until the block ends; then the last answers are waited for."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        made = Load()
        tasks = [asyncio.create_task(made.post_on(client)) for _ in range(clients)]
        try:
            yield made
        finally:
            made.stopping = True
            await asyncio.gather(*tasks)
