"""Rate limits: accepted crystals are bounded over any time, refusals say when to retry, no request starves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepergatgnn.service.errors import ServiceError
from deepergatgnn.service.http.rate_limits import ANONYMOUS, Bucket, Caller, Rate


class Clock:
    """Clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


RATES = st.builds(Rate, st.floats(0.01, 1000), st.floats(1, 5000))
REQUESTS = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 3000)), min_size=1, max_size=60)


@given(rate=RATES, requests=REQUESTS)
def test_no_window_accepts_more_than_rate_burst_and_one_request(rate: Rate, requests: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock)
    taken = []
    for pause, crystals in requests:
        clock.now += pause
        if bucket.take(crystals) == 0:
            taken.append((clock.now, crystals))
    for first, (begin, _) in enumerate(taken):
        for last in range(first, len(taken)):
            window = taken[first : last + 1]
            most = rate.burst + rate.per_second * (taken[last][0] - begin) + max(n for _, n in window)
            assert sum(n for _, n in window) <= most * (1 + 1e-9)


@given(rate=RATES, requests=REQUESTS)
def test_a_retry_at_the_given_time_is_accepted(rate: Rate, requests: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket = Bucket(rate, clock)
    for pause, crystals in requests:
        clock.now += pause
        wait = bucket.take(crystals)
        if wait > 0:
            clock.now += 0.5 * wait
            assert bucket.take(crystals) > 0
            clock.now += 0.5 * wait + 1e-6 * max(1, clock.now)
            assert bucket.take(crystals) == 0


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    bucket = Bucket(Rate(1, 10), clock)
    assert bucket.take(8) == 0
    assert bucket.take(5) == pytest.approx(3)
    assert bucket.take(2) == 0
    assert bucket.take(1) == pytest.approx(1)


def test_what_was_paid_before_is_not_paid_twice_and_stays_paid() -> None:
    clock = Clock()
    bucket = Bucket(Rate(10, 20), clock)
    assert bucket.take(1) == 0
    assert bucket.take(100, paid=1) == 0  # as if at once
    assert bucket.take(1) == pytest.approx(8.1)
    clock.now = 9.0  # there are 10
    assert bucket.take(1) == 0
    assert bucket.take(15, paid=1) == pytest.approx(0.6)  # until there are 15 again
    assert bucket.take(9, paid=1) == 0
    assert bucket.take(1) == pytest.approx(0.0)
    assert bucket.take(1) > 0


def test_a_request_beyond_the_burst_waits_for_a_full_bucket_and_pays_afterwards() -> None:
    clock = Clock()
    bucket = Bucket(Rate(10, 20), clock)
    assert bucket.take(100) == 0
    assert bucket.take(1) == pytest.approx(8.1)
    clock.now = 8.2
    assert bucket.take(1) == 0
    assert bucket.take(100) > 0


def test_a_caller_over_its_rate_gets_the_time_of_a_retry() -> None:
    clock = Clock()
    caller = Caller("alice", Bucket(Rate(0.5, 2), clock))
    caller.spend(2)
    with pytest.raises(ServiceError, match=r"'alice' may ask for 0\.5 crystals a second, 2 at once") as caught:
        caller.spend(1)
    assert (caught.value.code, caught.value.retry_after_s) == ("rate_limited", 2)
    clock.now = 2.0
    caller.spend(1)


def test_without_a_rate_nothing_is_counted() -> None:
    for _ in range(3):
        ANONYMOUS.spend(1_000_000)
        Caller("bob").spend(1_000_000)


@pytest.mark.parametrize(("per_second", "burst"), [(50.0, 500.0), (0.01, 1.0), (0.1, 1.0), (0.2, 2.0)])
def test_the_burst_is_ten_seconds_and_at_least_one_crystal(per_second: float, burst: float) -> None:
    assert Rate.of(per_second) == Rate(per_second, burst)
    assert Rate.of(per_second, 7) == Rate(per_second, 7)


@pytest.mark.parametrize(
    ("per_second", "burst"),
    [(0, None), (-1, None), (float("nan"), None), (float("inf"), None), (1, 0), (1, 0.5), (1, float("nan"))],
)
def test_what_is_no_rate_is_refused(per_second: float, burst: float | None) -> None:
    with pytest.raises(ValueError, match=r"rate is|burst is"):
        Rate.of(per_second, burst)
