"""Load process, `python -m benchmarks.serving.load_process`: reads plans and writes outcomes, one line of JSON each.

A plan: `address`, `path`, `headers`, `bodies` (a file, one JSON body a line), `seconds`, `warm_s`, `kept`, and either
`clients`, and `most` requests, for a closed loop, or `rate` and `seed`, for an open one.
"""

import asyncio
import contextlib
import gc
import json
import math
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.serving.http_client import post
from benchmarks.serving.load_generator import Generator, Outcome

PRIORITY = -10


async def run_plan(plan: dict[str, Any]) -> Outcome:
    """Run the load of one plan."""
    where = urlsplit(plan["address"])
    assert where.hostname is not None and where.port is not None  # noqa: PT018
    bodies = await asyncio.to_thread(Path(plan["bodies"]).read_bytes)
    requests = [post(where.netloc, plan["path"], body, *plan["headers"]) for body in bodies.splitlines()]
    generator = Generator(where.hostname, where.port, requests, kept=plan["kept"])
    gc.collect()
    gc.disable()  # its pauses would be measured as the service's
    try:
        if "rate" in plan:
            return await generator.open(plan["rate"], plan["seconds"], plan["warm_s"], plan["seed"])
        return await generator.closed(plan["clients"], plan["seconds"], plan["warm_s"], plan.get("most", math.inf))
    finally:
        gc.enable()


def main() -> None:
    """Run plans until standard input ends."""
    with contextlib.suppress(PermissionError):  # real clients do not compete for the cores of the server
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    for line in sys.stdin:
        print(json.dumps(vars(asyncio.run(run_plan(json.loads(line))))), flush=True)


if __name__ == "__main__":
    main()
