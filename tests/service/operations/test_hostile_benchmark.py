"""The hostile benchmark tells an answer that is not the one of its row."""

import asyncio
from collections.abc import Iterator

import httpx

from benchmarks.hostile import ENDINGS, Seen, files, post_all
from fuzz.corpus import HOSTILE


def post(waiting: Iterator[tuple[str, bytes]], code: str) -> Seen:
    """Post to a service that gives every file the same answer."""
    seen = Seen()

    async def run() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(422, json={"code": code}))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            await post_all(client, waiting, seen)

    asyncio.run(run())
    return seen


def test_every_file_of_the_table_has_its_ending() -> None:
    assert [name for name, _ in files(None, 40)] == list(ENDINGS)[::40]
    assert list(ENDINGS.values()) == [ending for ending, _ in HOSTILE.values()]


def test_an_answer_that_is_not_that_of_the_row_is_told() -> None:
    names = [name for name in ENDINGS if ENDINGS[name] in ("bad_cell", "too_dense")]
    seen = post(((name, b"") for name in [*names, "a real file"]), "bad_cell")
    assert seen.codes == {"422 bad_cell": len(names) + 1}
    assert seen.unexpected == {"hostile: 192 same ops": "bad_cell"}
