"""A proxy before a broker that delays, cuts and swallows what passes, with or without TLS on the client's side."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Fault:
    """What is wrong with the network.

    Attributes:
        delay_s: before each piece of an answer goes on.
        cut_after: bytes of answers after which a connection breaks.
        swallows: nothing goes on, and no connection ends.
    """

    delay_s: float = 0.0
    cut_after: int | None = None
    swallows: bool = False


class Proxy:
    """Passes connections on to a port of loopback.

    Args:
        target: that port; a new one holds for new connections.
        tls: for the side of the clients.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.fault, self.port = Fault(), 0
        self.target, self._tls = target, tls
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def start(self) -> None:
        """Begin; `port` is known then."""
        self._thread.start()
        assert self._started.wait(60)

    def stop(self) -> None:
        """End all connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self.target)
            ways = [asyncio.ensure_future(self._ask(reader, there)), asyncio.ensure_future(self._answer(back, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the broker is down: so is the connection
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(1 << 16):
            await self._swallowed()
            writer.write(content)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while content := await reader.read(1 << 16):
            if self.fault.delay_s:
                await asyncio.sleep(self.fault.delay_s)
            await self._swallowed()
            most = self.fault.cut_after
            passed = passed + len(content) if most is not None else 0
            if most is not None and passed > most:
                writer.write(content[: max(0, len(content) - (passed - most))])
                with contextlib.suppress(OSError, TimeoutError):
                    await asyncio.wait_for(writer.drain(), 1)
                return
            writer.write(content)
            await writer.drain()

    async def _swallowed(self) -> None:
        while self.fault.swallows:  # noqa: ASYNC110 - the test sets it from another thread
            await asyncio.sleep(0.02)


@contextmanager
def proxy(target: int, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy before a port."""
    made = Proxy(target, tls)
    made.start()
    try:
        yield made
    finally:
        made.stop()
