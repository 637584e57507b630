"""What must cost nobody an answer: a broker that dies, signals to all processes, and what is put into the broker."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil
import pytest

from deepergatgnn.errors import ConfigError
from deepergatgnn.service.operations.serve import worker_environment
from deepergatgnn.service.settings import Settings, read_settings
from tests.conftest import running, until
from tests.support.brokers import broker_server
from tests.support.processes import CIF, HEADERS, PREDICT, admitted, api, load, post, small_store, until_ready, worker
from tests.support.versions import other_weights

Process = subprocess.Popen[str]


def children(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def broker_of(process: Process) -> psutil.Process:
    [broker] = [each for each in children(process) if "--unixsocket" in each.cmdline() or "valkey" in each.name()]
    return broker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("outages") / "store")


def served(store: Path, **environment: str) -> AbstractContextManager[tuple[Process, str]]:
    return running("serve", "--port", "0", ready="^ready on ", DEEPERGATGNN_MODEL_STORE=str(store), **environment)


def test_a_broker_that_is_killed_is_started_again(store: Path) -> None:
    async def scenario(process: Process, address: str) -> None:
        async with load(address, clients=4) as made:
            await made.more(10)
            for _ in range(2):
                old = broker_of(process)
                old.kill()
                await asyncio.to_thread(until, lambda old=old: not old.is_running() or old.status() == "zombie", "gone")
                await asyncio.to_thread(until_ready, address)
                end = len(made.replies)
                await made.more(10)
                while made.replies[-1].status_code != httpx.codes.OK:
                    assert len(made.replies) < end + 5000
                    await made.more(5)
        assert not made.broken
        assert set(made.statuses) <= {200, 503}

    with served(store) as (process, line):
        asyncio.run(scenario(process, line.removeprefix("ready on ")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_answers_in_flight_get_out_when_every_process_gets_the_signal(store: Path, number: signal.Signals) -> None:
    """As from systemd, which sends it to all of a control group."""

    async def scenario(process: Process, address: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            assert (await post(client)).status_code == httpx.codes.OK
            [computing] = [each for each in children(process) if "deepergatgnn.service.worker" in each.cmdline()]
            computing.suspend()  # so that all are in flight
            asked = [asyncio.create_task(post(client)) for _ in range(8)]
            await asyncio.to_thread(until, lambda: admitted(address, "interactive") == len(asked), "all are in flight")
            await asyncio.sleep(1)  # and parsed
            for each in (*children(process), psutil.Process(process.pid)):
                each.send_signal(number)
            computing.resume()
            return await asyncio.gather(*asked)

    with served(store, DEEPERGATGNN_DRAIN_GRACE_S="1") as (process, line):
        replies = asyncio.run(scenario(process, line.removeprefix("ready on ")))
        assert process.wait(60) == 0
    assert [reply.status_code for reply in replies] == [200] * 8


def test_a_broker_outlives_nobody(store: Path) -> None:
    """API and worker are killed at once: nobody is left to end it."""
    with served(store) as (process, _):
        broker, everyone = broker_of(process), children(process)
        for each in (*(each for each in everyone if each != broker), psutil.Process(process.pid)):
            each.kill()
        until(lambda: not broker.is_running() or broker.status() == psutil.STATUS_ZOMBIE, "the broker ends")


def test_a_worker_gets_every_setting_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it came from, and whatever the worker's own surroundings say."""
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("DEEPERGATGNN_BATCH_S=9\nDEEPERGATGNN_THREADS=9\n", "utf-8")
    monkeypatch.setenv("deepergatgnn_threads", "7")
    monkeypatch.setenv("UNRELATED", "kept")
    given = Settings.model_validate(
        {
            "model_store": "here",
            "api_keys": "alpha,beta sha256:" + "0" * 64,
            "cors_origins": "https://a.example,https://b.example",
            "host": "0.0.0.0",
            "threads": 3,
            "batch_s": 0.25,
            "metrics_open": True,
            "log_level": "debug",
            "metrics_port": 0,
        }
    )
    environment = worker_environment(given, "redis://127.0.0.1:1/0")
    assert environment["UNRELATED"] == "kept"
    code = "import deepergatgnn.service.settings as s; print(repr({k: str(v) for k, v in s.Settings()}))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    expected = {name: str(value) for name, value in given}
    expected |= {"redis_url": "**********"}
    assert done.stdout.strip() == repr(expected)


def console(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "deepergatgnn.commands.main", *words]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=240
    )


SHADOWS = ("queue", "json", "socket", "deepergatgnn", "redis", "torch", "commands", "selectors", "struct", "typing")


def test_what_lies_in_the_folder_it_is_started_in_is_not_imported(store: Path, tmp_path: Path) -> None:
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"open('imported-{name}', 'w'); raise SystemExit(9)\n", "utf-8")
    for package in ("service", "model_store"):
        (tmp_path / package).mkdir()
        for module in ("__init__", "worker", "parse_process", "store"):
            text = f"open('imported-{package}-{module}', 'w'); raise SystemExit(9)\n"
            (tmp_path / package / f"{module}.py").write_text(text, "utf-8")
    root = str(Path(__file__).parent.parent.parent)
    script = Path(sys.executable).with_name("deepergatgnn")
    process = subprocess.Popen(
        [script, "serve", "--port", "0", "--store", store],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1", "DEEPERGATGNN_COMPILE_AFTER_S": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = ""
        while not line.startswith("ready on "):
            line = process.stdout.readline()
            assert line, f"it ended with {process.wait()}"
        address = line.removeprefix("ready on ").strip()
        reply = httpx.post(f"{address}{PREDICT}", content=CIF, headers=HEADERS, timeout=60)
        assert reply.status_code == httpx.codes.OK, reply.text
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
    assert [path.name for path in tmp_path.glob("imported-*")] == []


def test_two_stores_are_never_mixed_up(store: Path, tmp_path: Path) -> None:
    """The API on one, the worker on another with a model of the same name and version: an error, never its number."""
    other = other_weights(tmp_path / "other")
    with broker_server() as server, api(server.url, store) as (_, address), worker(server.url, other):
        until(lambda: httpx.get(f"{address}/readyz").json()["code"] == "no_model", "it is seen that no model answers")
        for models in ({}, {"models": "bulk-modulus"}, {"models": "bulk-modulus@1.0.0"}):
            reply = httpx.post(f"{address}{PREDICT}", params=models, content=CIF, headers=HEADERS, timeout=60)
            assert (reply.status_code, reply.json()["code"]) == (503, "model_unavailable"), reply.text
        with worker(server.url, store):
            pass
        with api(server.url, other) as (_, there):
            until_ready(there)
            reply = httpx.post(f"{there}{PREDICT}", content=CIF, headers=HEADERS, timeout=60)
            assert reply.status_code == httpx.codes.OK


def test_a_named_store_is_that_of_the_worker_too(store: Path, tmp_path: Path) -> None:
    other = other_weights(tmp_path / "other")
    values = []
    for folder in (store, other):
        with running("serve", "--port", "0", "--store", str(folder), ready="^ready on ") as (_, line):
            reply = httpx.post(f"{line.removeprefix('ready on ')}{PREDICT}", content=CIF, headers=HEADERS, timeout=60)
            assert reply.status_code == httpx.codes.OK, reply.text
            [prediction] = reply.json()["predictions"]
            values.append(prediction["value"])
    assert abs(values[0] - values[1]) > 0.01


BAD_SETTINGS = {
    "no scheme": {"DEEPERGATGNN_REDIS_URL": "localhost:6379"},
    "a scheme of something else": {"DEEPERGATGNN_REDIS_URL": "http://127.0.0.1:6379"},
    "no number as port of the broker": {"DEEPERGATGNN_REDIS_URL": "redis://127.0.0.1:x/0"},
    "a port out of range": {"DEEPERGATGNN_REDIS_URL": "redis://127.0.0.1:99999/0"},
    "no host": {"DEEPERGATGNN_REDIS_URL": "redis://"},
    "port": {"DEEPERGATGNN_PORT": "http"},
    "not a number": {"DEEPERGATGNN_BATCH_S": "nan"},
    "endless": {"DEEPERGATGNN_DRAIN_S": "inf"},
    "too many": {"DEEPERGATGNN_THREADS": "1000000000"},
}
BAD_SURROUNDINGS = {
    "store that is not there": {"DEEPERGATGNN_MODEL_STORE": "/nowhere/at/all"},
    "store that is a file": {"DEEPERGATGNN_MODEL_STORE": __file__},
    "store that is empty": {"DEEPERGATGNN_MODEL_STORE": str(Path(__file__).parent)},
    "host": {"DEEPERGATGNN_HOST": "nowhere.invalid", "DEEPERGATGNN_API_KEYS": "k"},
    "device": {"DEEPERGATGNN_DEVICE": "cuda:77"},
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_bad_setting_is_one_sentence(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BAD_SETTINGS[case].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        read_settings()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "environment", [BAD_SETTINGS["port"], *BAD_SURROUNDINGS.values()], ids=["port", *BAD_SURROUNDINGS]
)
def test_a_service_that_cannot_start_ends_with_one_sentence_and_status_2(
    environment: dict[str, str], tmp_path: Path
) -> None:
    words = [] if "DEEPERGATGNN_PORT" in environment else ["--port", "0"]
    done = console("serve", *words, cwd=tmp_path, **environment)
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(told)) == (2, 1), done.stderr
    assert told[0].startswith("deepergatgnn: ")
    assert "ready on" not in done.stdout


@pytest.mark.parametrize("words", [["models", "list"], ["models", "verify"], ["predict", "examples/ZrO2.cif"]])
@pytest.mark.parametrize("folder", ["/nowhere/at/all", str(Path(__file__).parent), __file__])
def test_every_command_refuses_a_store_without_models(words: list[str], folder: str, tmp_path: Path) -> None:
    done = console(*words, cwd=tmp_path, DEEPERGATGNN_MODEL_STORE=folder)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = console("serve", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_a_long_or_closed_folder_for_temporary_files(store: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    for folder in (str(long), "/nowhere/at/all"):
        with served(store, TMPDIR=folder) as (_, line):
            reply = httpx.post(f"{line.removeprefix('ready on ')}{PREDICT}", content=CIF, headers=HEADERS, timeout=60)
            assert reply.status_code == httpx.codes.OK, reply.text


def test_what_kubernetes_sets_for_a_service_of_that_name_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {"PORT": "tcp://10.0.0.1:80", "PORT_80_TCP_ADDR": "10.0.0.1", "SERVICE_HOST": "10.0.0.1"}
    for name, value in {**links, "METRICS_PORT": "tcp://10.0.0.2:9000"}.items():
        monkeypatch.setenv(f"DEEPERGATGNN_{name}", value)
    found = Settings()
    assert (found.port, found.metrics_port, found.host) == (8000, None, "127.0.0.1")


def test_an_env_file_means_the_same_to_every_command(store: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"DEEPERGATGNN_MODEL_STORE={store}\nDEEPERGATGNN_DEVICE=cuda:77\n", "utf-8")
    listed = console("models", "list", "--json", cwd=tmp_path)
    assert [row["version"] for row in httpx.Response(200, text=listed.stdout).json()] == ["1.0.0"]
    cif = str(Path("examples/ZrO2.cif").absolute())
    for words in (["predict", cif], ["serve", "--port", "0"]):
        done = console(*words, cwd=tmp_path)
        assert (done.returncode, "cuda:77" in done.stderr) == (2, True), done.stderr
    assert console("predict", cif, "--device", "cpu", cwd=tmp_path).returncode == 0


WITHOUT = """
import sys
from importlib.machinery import PathFinder
there = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {libraries} else there(name, path, target)
PathFinder.find_spec = find_spec
sys.argv = ["deepergatgnn", *{words}]
from deepergatgnn.commands.main import main
main()
"""
LIBRARIES = {
    "serve": (["serve"], ["fastapi"], "service"),
    "serve without torch": (["serve"], ["torch"], "inference,service"),
    "worker": (["worker"], ["redis"], "service"),
    "predict": (["predict", "examples/ZrO2.cif"], ["torch"], "inference"),
    "evaluate": (
        ["evaluate", "bulk-modulus", "elastic_tensor_2015"],
        ["sklearn", "tqdm", "pyarrow", "torch"],
        "training",
    ),
    "train": (["train", "training/recipes/example.yaml"], ["yaml", "tqdm"], "training"),
    "verify": (["models", "verify"], ["torch"], "inference"),
}


@pytest.mark.parametrize("case", LIBRARIES)
def test_a_library_that_is_missing_is_named_with_its_extra(case: str) -> None:
    words, libraries, extra = LIBRARIES[case]
    code = WITHOUT.format(words=words, libraries=libraries)
    broker = {"DEEPERGATGNN_REDIS_URL": "redis://127.0.0.1:1/0"} if case == "worker" else {}  # it asks for that first
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | broker, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"pip install 'deepergatgnn[{extra}]'" in done.stderr or (extra == "service" and "service]" in done.stderr)
