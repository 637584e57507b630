"""What workers and API processes tell of themselves through the broker, checked: anybody may write there."""

import math
from typing import Any

from deepergatgnn.service.messages import LANES, UnreadableError

NUMBERS_OF_COST = 4  # of `cost.Cost`


def heartbeat_of(document: object) -> dict[str, Any]:
    """A heartbeat: name, models by identity, what failed to load, costs by identity.

    Raises:
        UnreadableError: if it is none.
    """
    if not isinstance(document, dict):
        raise UnreadableError("a heartbeat is an object")
    worker, models = document.get("worker"), document.get("models")
    costs, failed = document.get("costs"), document.get("failed", {})
    if not (isinstance(worker, str) and isinstance(models, list) and all(isinstance(each, str) for each in models)):
        raise UnreadableError("a heartbeat names its worker and its models")
    if not (isinstance(failed, dict) and all(isinstance(reason, str) for reason in failed.values())):
        raise UnreadableError("a heartbeat tells why models failed")
    if not (isinstance(costs, dict) and all(map(_is_cost, costs.values()))):
        raise UnreadableError(f"a cost is {NUMBERS_OF_COST} numbers")
    return {"device": document.get("device"), "worker": worker, "models": models, "failed": failed, "costs": costs}


def report_of(document: object) -> dict[str, Any]:
    """A report of an API process: name, predicted seconds that wait in each lane, and those done so far.

    Raises:
        UnreadableError: if it is none.
    """
    if not isinstance(document, dict):
        raise UnreadableError("a report is an object")
    name, seconds, done = document.get("name"), document.get("seconds"), document.get("done", 0.0)
    if not (isinstance(name, str) and isinstance(seconds, dict) and _is_amount(done)):
        raise UnreadableError("a report has a name and seconds")
    if not all(_is_amount(seconds.get(lane, 0.0)) for lane in LANES):
        raise UnreadableError("seconds are numbers")
    return document


def _is_cost(numbers: object) -> bool:
    return isinstance(numbers, list) and len(numbers) == NUMBERS_OF_COST and all(map(_is_amount, numbers))


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
