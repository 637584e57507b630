"""What a service writes to standard error: JSON for programs, lines for people, and who asked, by the key's name."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from deepergatgnn.service.http.api_keys import digest_of
from tests.conftest import COMMAND, ROOT

SECRETS = {"alice": "alice-secret-key", "gone": "gone-secret-key", "slow": "slow-secret-key"}
KEYS = ",".join(
    f"{name} sha256:{digest_of(key).hex()} {option}".strip()
    for (name, key), option in zip(SECRETS.items(), ("", "disabled", "rate=0.001 burst=1"), strict=True)
)
WRONG = "a-wrong-secret-key"


def requests_of(address: str) -> None:
    with httpx.Client(base_url=address, timeout=60) as client:
        for key in (SECRETS["alice"], SECRETS["gone"], WRONG):
            client.get("/models", headers={"X-API-Key": key, "X-Request-ID": f"of-{key[:5]}"})
        client.get("/healthz", headers={"X-Request-ID": "of-health"})
        for number in range(2):
            headers = {"X-API-Key": SECRETS["slow"], "X-Request-ID": f"of-slow-{number}"}
            client.post("/predict/batch", json={"structures": []}, headers=headers)


def written(stderr: int | IO[bytes], **environment: str) -> None:
    """What becomes of a few requests to an API without workers."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", "--workers", "0"],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=ROOT,
        env=os.environ | {"DEEPERGATGNN_API_KEYS": KEYS, "DEEPERGATGNN_DRAIN_GRACE_S": "0"} | environment,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("ready on "))
        address = line.removeprefix("ready on ").strip()
        while httpx.get(f"{address}/readyz").json()["code"] != "no_worker":
            time.sleep(0.05)
        requests_of(address)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def to_a_file(path: Path, **environment: str) -> str:
    with path.open("wb") as file:
        written(file, **environment)
    return path.read_text("utf-8")


def to_a_terminal(**environment: str) -> str:
    ours, theirs = pty.openpty()
    try:
        written(theirs, **environment)
        os.set_blocking(ours, False)
        return os.read(ours, 1 << 20).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def by_request(text: str) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["request_id"]: line for line in lines if "request_id" in line}


@pytest.mark.parametrize("level", ["info", "warning"])
def test_a_request_names_the_key_and_never_shows_it(tmp_path: Path, level: str) -> None:
    text = to_a_file(tmp_path / "log", DEEPERGATGNN_LOG_LEVEL=level)
    for secret in (*SECRETS.values(), WRONG):
        assert secret not in text
        assert digest_of(secret).hex() not in text
    lines = by_request(text)
    gone, wrong = lines["of-gone-"], lines["of-a-wro"]
    assert (gone["level"], gone["status"], gone["code"], gone["key"]) == ("warning", 403, "key_disabled", "gone")
    assert (wrong["level"], wrong["status"], wrong["code"], wrong["key"]) == ("warning", 401, "unauthorized", None)
    if level == "warning":
        assert "of-alice" not in lines
        return
    alice, health = lines["of-alice"], lines["of-health"]
    assert (alice["level"], alice["status"], alice["route"], alice["key"]) == ("info", 200, "/models", "alice")
    assert "code" not in alice
    assert health["key"] == "anonymous"


def test_people_read_lines_on_a_terminal() -> None:
    text = to_a_terminal(DEEPERGATGNN_LOG_LEVEL="info")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain != text
    [line] = [line for line in plain.splitlines() if "of-alice" in line]
    assert not line.startswith("{")
    assert re.search(r"\d\d:\d\d:\d\d .*info.* request .*key=alice", line)
    assert "status=200" in line
    assert "secret" not in text


def test_the_setting_is_stronger_than_the_terminal(tmp_path: Path) -> None:
    assert by_request(to_a_terminal(DEEPERGATGNN_LOG_FORMAT="json"))["of-gone-"]["key"] == "gone"
    text = to_a_file(tmp_path / "log", DEEPERGATGNN_LOG_FORMAT="console")
    assert "key=gone" in text
    assert "\x1b" not in text
