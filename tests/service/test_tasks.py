"""Background tasks end together, also where one of them swallows a cancellation."""

import asyncio
from contextlib import suppress

import pytest

from deepergatgnn.service.tasks import cancel_all, restart_on_failure, run_until_done


async def swallow_once() -> None:
    """End at the second cancellation, as a task whose command of redis-py swallows the first."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def fail() -> None:
    raise KeyError("unforeseen")


def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(swallow_once())
        await asyncio.sleep(0)
        await cancel_all([task])
        assert task.cancelled()

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize("failing", [0, 1])
def test_tasks_end_with_the_first_that_fails(failing: int) -> None:
    async def scenario() -> None:
        other = asyncio.create_task(swallow_once())
        await asyncio.sleep(0)
        with pytest.raises(KeyError, match="unforeseen"):
            await run_until_done(*((fail(), other) if failing == 0 else (other, fail())))
        assert other.cancelled()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_tasks_end_with_the_main_one_and_not_with_others() -> None:
    async def scenario() -> None:
        main, endless = asyncio.create_task(asyncio.sleep(0.05)), asyncio.create_task(swallow_once())
        await run_until_done(main, asyncio.sleep(0), endless)
        assert main.done()
        assert endless.cancelled()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_task_that_fails_is_restarted() -> None:
    async def scenario() -> int:
        calls = 0

        async def work() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise KeyError("unforeseen")
            await asyncio.Event().wait()

        task = asyncio.create_task(restart_on_failure(work))
        async with asyncio.timeout(10):
            while calls < 2:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        await cancel_all([task])
        return calls

    assert asyncio.run(scenario()) == 2
