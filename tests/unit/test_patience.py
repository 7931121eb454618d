"""Patience: an upstream on a clock moved by hand, quick or nearly dead, and five times more callers than it serves."""

import heapq
import random
from collections.abc import Callable

import pytest

from app.patience import FEW, WINDOW_S, Places

DEADLINE_S = 10.0


def storm(places: Places, takes_s: Callable[[float], float], per_s: float, seconds: float) -> tuple[list[float], int]:
    """Callers at random moments; `takes_s` says how long a call takes that begins now. The waits, and the refusals."""
    dice = random.Random(1)
    now_s, waits, refused = 0.0, [], 0
    ends: list[tuple[float, float]] = []
    while now_s < seconds:
        now_s += dice.expovariate(per_s)
        while ends and ends[0][0] <= now_s:
            ended_s, waited_s = heapq.heappop(ends)
            places.give_back(waited_s, ended_s)
            waits.append(waited_s)
        if places.free(now_s):
            wait_s = min(takes_s(now_s), DEADLINE_S)
            heapq.heappush(ends, (now_s + wait_s, wait_s))
            places.take()
        else:
            refused += 1
    return waits, refused


def one_after_the_other(per_s: float) -> Callable[[float], float]:
    """A queue that does not notice who has given up, as databases do not."""
    done_s = 0.0

    def takes_s(now_s: float) -> float:
        nonlocal done_s
        done_s = max(done_s, now_s) + 1 / per_s
        return done_s - now_s

    return takes_s


@pytest.mark.parametrize(("pace_per_s", "wait_s"), [(400, 0.3), (50, 2.1), (8, 2.5), (4, 3.1)])
def test_whoever_is_let_in_is_served_soon_and_at_the_full_pace(pace_per_s: float, wait_s: float) -> None:
    waits, refused = storm(Places(100, 0), one_after_the_other(pace_per_s), 5 * pace_per_s, 60)
    assert len(waits) > 0.8 * 60 * pace_per_s
    assert max(waits) < DEADLINE_S
    # The first ones are let in before the pace is known.
    assert max(waits[len(waits) // 4 :]) < wait_s
    assert refused > 3 * len(waits)


def test_a_fixed_bound_alone_serves_nobody_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.patience.FEW", 1000)
    waits, _ = storm(Places(100, 0), one_after_the_other(8), 40, 200)
    assert sum(wait < DEADLINE_S for wait in waits) < 0.1 * len(waits)


def test_an_upstream_that_is_only_far_away_is_used_to_the_bound() -> None:
    waits, _ = storm(Places(100, 0), lambda _: 0.6, 1000, 60)
    assert len(waits) > 0.9 * 60 * 100 / 0.6


def test_those_who_wait_for_one_row_do_not_keep_others_out() -> None:
    places = Places(100, 0)
    for _ in range(60):
        places.take()
    _, refused = storm(places, lambda _: 0.01, 500, 30)
    assert refused == 0


def test_one_slow_call_says_nothing() -> None:
    places = Places(100, 0)
    for second in range(0, 50, 5):
        assert places.free(second)
        places.take()
        places.give_back(3.0, second + 3)
    for _ in range(100):
        assert places.free(49)
        places.take()
    assert not places.free(49)


def test_silence_is_noticed_and_soon_forgotten() -> None:
    places = Places(100, 0)
    for _ in range(50):
        assert places.free(0)
        places.take()
    assert not places.free(WINDOW_S)
    for _ in range(50):
        places.give_back(1.5, 1.5)
    for _ in range(FEW):
        assert places.free(1.5)
        places.take()
    assert not places.free(1.5)
    for _ in range(FEW):
        places.give_back(0.01, 1.51)
    for second in range(2, 10):
        assert places.free(second)
    for _ in range(100):
        assert places.free(9.1)
        places.take()


def test_after_a_pause_everything_is_as_at_the_start() -> None:
    places = Places(100, 0)
    for _ in range(100):
        places.take()
    for _ in range(100):
        places.give_back(2.0, 2.0)
    for _ in range(100):
        assert places.free(8)
        places.take()
    assert not places.free(8)
