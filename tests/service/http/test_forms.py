"""Valid forms are parsed, and hostile ones take a bounded number of steps."""

import asyncio
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest
from fastapi import Request

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.request_body import read_prediction_input
from deepergatgnn.service.prediction.pipeline import PredictionInput

KIB = 1 << 10
TYPE = b"multipart/form-data; boundary=x"
DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="a.cif"\r\n'
STEPS = 3000  # lines of Python that may be executed for one body


def request(content_type: bytes, body: bytes) -> Request:
    """A POST with that body, in one piece."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type)]
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers, "state": {}}
    return Request(scope, receive)


def read(content_type: bytes, body: bytes) -> PredictionInput | ServiceError:
    """What a form is understood as."""
    try:
        return asyncio.run(read_prediction_input(request(content_type, body)))
    except ServiceError as error:
        return error


def form(content: bytes, headers: bytes = DISPOSITION) -> bytes:
    """A form of one part."""
    return b"--x\r\n" + headers + b"\r\n" + content + b"\r\n--x--\r\n"


GOOD = {
    "plain": (TYPE, form(b"data"), b"data"),
    "empty": (TYPE, form(b""), b""),
    "lines": (TYPE, form(b"\r\na\r\n--y\r\n-- x\r\n"), b"\r\na\r\n--y\r\n-- x\r\n"),
    "preamble and epilogue": (TYPE, b"hello\r\n" + form(b"data") + b"bye", b"data"),
    "padding": (TYPE, form(b"data").replace(b"--x\r\n", b"--x \t\r\n", 1), b"data"),
    "quoted boundary": (b'multipart/form-data; boundary="a b"', form(b"data").replace(b"--x", b"--a b"), b"data"),
    "more headers": (TYPE, form(b"data", b"Content-Type: text/plain\r\n" + DISPOSITION), b"data"),
    "other case": (TYPE, form(b"data", DISPOSITION.lower()), b"data"),
    "no file name": (TYPE, form(b"data", b"Content-Disposition: form-data; name=file\r\n"), b"data"),
    "longest boundary": (TYPE[:-1] + b"y" * 70, form(b"data").replace(b"--x", b"--" + b"y" * 70), b"data"),
}
BAD = {
    "nothing": (TYPE, b""),
    "no boundary named": (b"multipart/form-data", form(b"data")),
    "another boundary": (TYPE.replace(b"=x", b"=y"), form(b"data")),
    "boundary too long": (TYPE[:-1] + b"y" * 71, form(b"data").replace(b"--x", b"--" + b"y" * 71)),
    "no part": (TYPE, b"--x--\r\n"),
    "no end": (TYPE, b"--x\r\n" + DISPOSITION + b"\r\ndata"),
    "no headers": (TYPE, form(b"data", b"")),
    "no name": (TYPE, form(b"data", b"Content-Disposition: form-data\r\n")),
    "another name": (TYPE, form(b"data", DISPOSITION.replace(b"file", b"models", 1))),
    "two fields": (TYPE, form(b"data").replace(b"--x--\r\n", b"") + form(b"more")),
    "text behind a boundary": (TYPE, form(b"data").replace(b"--x\r\n", b"--xy\r\n", 1)),
    "name of other bytes": (TYPE, form(b"data", DISPOSITION.replace(b"file", b"\xff", 1))),
}
MUCH = 256 * KIB
HOSTILE = {
    "spaces behind a boundary": (TYPE, b"--x" + b" " * MUCH),
    "spaces before a line's end": (TYPE, b"--x" + b" " * MUCH + b"\r\n" + form(b"data")[5:]),
    "spaces for a header": (TYPE, b"--x\r\n" + b" " * MUCH),
    "a header": (TYPE, b"--x\r\nA:" + b"b" * MUCH),
    "headers": (TYPE, b"--x\r\n" + b"A: b\r\n" * (MUCH // 6)),
    "preamble": (TYPE, b"\r\n" * (MUCH // 2)),
    "nearly boundaries": (TYPE, form(b"\r\n--" * (MUCH // 4))),
    "carriage returns": (TYPE, form(b"\r" * MUCH)),
    "parts": (TYPE, form(b"")[:-7] * (MUCH // 70) + b"\r\n--x--\r\n"),
    "parts without headers": (TYPE, b"--x\r\n\r\n\r\n" * (MUCH // 9) + b"--x--\r\n"),
    "boundaries": (TYPE, b"--x\r\n" * (MUCH // 5)),
    "epilogue": (TYPE, form(b"data") + b"-" * MUCH),
    "semicolons": (TYPE + b";" * 60_000, form(b"data")),
    "parameters": (TYPE + b"; a=b" * 12_000, form(b"data")),
    "backslashes": (TYPE + b'; a="' + b"\\" * 60_000 + b'"', form(b"data")),
    "semicolons of a part": (TYPE, form(b"data", DISPOSITION[:-2] + b";" * 60_000 + b"\r\n")),
    "percents of a part": (TYPE, form(b"data", DISPOSITION[:-2] + b"; filename*=utf-8''" + b"%41" * 20_000 + b"\r\n")),
}


@pytest.mark.parametrize("case", GOOD)
def test_the_file_is_found(case: str) -> None:
    content_type, body, content = GOOD[case]
    found = read(content_type, body)
    assert isinstance(found, PredictionInput), found
    assert found.source == content


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_form_of_one_file_is_malformed(case: str) -> None:
    found = read(*BAD[case])
    assert isinstance(found, ServiceError)
    assert found.code == "malformed"


@pytest.mark.parametrize("case", HOSTILE)
def test_no_form_takes_more_steps_because_it_is_longer(case: str) -> None:
    steps = 0

    def count(_: FrameType, event: str, __: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        assert steps <= STEPS, "it takes as many steps as it has bytes"
        return count

    content_type, body = HOSTILE[case]

    async def run() -> None:
        posted = read_prediction_input(request(content_type, body))
        before = sys.gettrace()
        sys.settrace(count)
        try:
            with suppress(ServiceError):
                await posted
        finally:
            sys.settrace(before)

    asyncio.run(run())


def test_others_have_their_turn_within_a_long_form() -> None:
    body = form(b"\r\n--" * (2048 * KIB))

    async def run() -> int:
        turns = 0

        async def watch() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        watching = asyncio.create_task(watch())
        await read_prediction_input(request(TYPE, body))
        watching.cancel()
        return turns

    assert asyncio.run(run()) >= (len(body) >> 20) - 1
