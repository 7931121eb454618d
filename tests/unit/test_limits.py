"""Limits: a clock moved by hand, addresses behind proxies."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.limits import ClientAddresses, Limiter, Verdict, item, sends, sends_refused


def test_bucket_empties_and_refills() -> None:
    limiter = Limiter("person", 60)
    verdicts = [limiter.take("ada", 100.0) for _ in range(60)]
    assert verdicts[0] == Verdict(True, 59, 1, 0)
    assert verdicts[-1] == Verdict(True, 0, 60, 0)
    assert limiter.take("ada", 100.0) == Verdict(False, 0, 60, 1)
    assert limiter.take("ben", 100.0).allowed
    assert limiter.take("ada", 100.9).allowed is False
    assert limiter.take("ada", 101.0).allowed
    assert limiter.take("ada", 1000.0).remaining == 59


def test_refusals_cost_nothing() -> None:
    limiter = Limiter("person", 1)
    limiter.take("ada", 0.0)
    waits = [limiter.take("ada", now).retry_after_s for now in (0.0, 30.0, 59.0)]
    assert waits == [60, 30, 1]
    assert limiter.take("ada", 60.0).allowed


def test_table_is_bounded_and_forgets_who_was_longest_away() -> None:
    limiter = Limiter("address", 1, buckets_count_max=2)
    assert limiter.take("a", 0).allowed
    assert limiter.take("b", 0).allowed
    assert not limiter.take("a", 1).allowed
    assert limiter.take("c", 1).allowed  # forgets b
    assert not limiter.take("a", 1).allowed
    assert limiter.take("b", 1).allowed


@given(st.lists(st.floats(0, 30), max_size=200), st.integers(1, 50))
def test_never_more_than_the_quota_and_what_came_back(pauses: list[float], quota: int) -> None:
    limiter, now, allowed = Limiter("person", quota), 0.0, 0
    for pause in pauses:
        now += pause
        verdict = limiter.take("ada", now)
        allowed += verdict.allowed
        assert 0 <= verdict.remaining < quota
        assert 0 <= verdict.reset_s <= 60
        assert (verdict.retry_after_s >= 1) == (not verdict.allowed)
    assert allowed <= quota + now * quota / 60 + 1e-6


def test_headers_are_structured_fields() -> None:
    assert Limiter("person", 600).policy == '"person";q=600;w=60'
    assert item("person", 599, 1) == '"person";r=599;t=1'
    assert sends(100, 99, 60, 12) == ('"send";q=100;w=60', '"send";r=99;t=12')
    assert sends_refused(17) == ('"send";q=100;w=60', '"send";r=0;t=17')
    assert sends_refused(1800) == ('"contact";q=30;w=3600', '"contact";r=0;t=1800')


PROXIES = ClientAddresses([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:1::/48")])


@pytest.mark.parametrize(
    ("peer", "forwarded", "key"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # an untrusted peer says nothing about others
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.66, 203.0.113.9", "203.0.113.9"),  # what the client wrote itself is not read
        ("10.0.0.1", "203.0.113.9, 10.2.3.4", "203.0.113.9"),
        ("10.0.0.1", "10.1.1.1, 10.2.3.4", "10.1.1.1"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", '"[2001:db8:2:3:4:5:6:7]:443"', "2001:db8:2:3::/64"),
        ("2001:db8:1::9", "203.0.113.9", "203.0.113.9"),
        ("2001:db8:2:3::1", None, "2001:db8:2:3::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
        ("::ffff:192.0.2.1", None, "192.0.2.1"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        (None, "203.0.113.9", "unknown"),
        ("/run/socket", None, "unknown"),
    ],
)
def test_address_behind_proxies(peer: str | None, forwarded: str | None, key: str) -> None:
    assert PROXIES.key(peer, forwarded) == key


def test_without_trusted_proxies_nothing_is_believed() -> None:
    assert ClientAddresses([]).key("127.0.0.1", "203.0.113.9") == "127.0.0.1"


def test_a_chain_is_read_only_so_far() -> None:
    assert PROXIES.key("10.0.0.1", ", ".join(["203.0.113.9"] + ["10.0.0.2"] * 10_000)) == "10.0.0.2"


@given(st.text(), st.text())
def test_whatever_is_sent_there_is_a_key(peer: str, forwarded: str) -> None:
    assert PROXIES.key(peer, forwarded)
