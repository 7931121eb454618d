"""Limits: the edge limiter, before any I/O, and the headers that tell clients about pace.

A token bucket per person or anonymous address, in memory: a shield for this process. What must be exact (100 sends in
60 s) is counted in SQL. When the table is full the bucket that was used longest ago is forgotten, so we fail open.
"""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from app.settings import Network

_WINDOW_S = 60
# 100,000 buckets are about 20 MiB. Below the number of people of one process in a minute it would forget too early.
_BUCKETS_COUNT_MAX = 100_000


class Verdict(NamedTuple):
    """What the limiter says.

    Units:  remaining is whole requests; reset_s is seconds until the bucket is full, retry_after_s until the next one.
    """

    allowed: bool
    remaining: int
    reset_s: int
    retry_after_s: int


class Limiter:
    """One policy: `quota` requests in 60 s per key, refilled evenly."""

    def __init__(self, name: str, quota: int, buckets_count_max: int = _BUCKETS_COUNT_MAX) -> None:
        self.name = name
        self.quota = quota
        self.policy = f'"{name}";q={quota};w={_WINDOW_S}'
        self.per_s = quota / _WINDOW_S
        self._count_max = buckets_count_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now_s: float) -> Verdict:
        """Take one request from the bucket of `key`.

        Units:  now_s is monotonic seconds; the seconds in the verdict are whole, rounded up, as Retry-After wants.
        Errors: none; a full table forgets its oldest bucket.
        """
        level, at_s = self._buckets.get(key, (float(self.quota), now_s))
        level = min(float(self.quota), level + (now_s - at_s) * self.per_s)
        allowed = level >= 1.0
        if allowed:
            level -= 1.0
        self._buckets[key] = (level, now_s)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._count_max:
            self._buckets.popitem(last=False)
        return self.verdict(allowed, level)

    def verdict(self, allowed: bool, level: float) -> Verdict:
        """What a bucket says that holds `level` requests afterwards."""
        reset_s = math.ceil((self.quota - level) / self.per_s)
        return Verdict(allowed, int(level), reset_s, 0 if allowed else max(1, math.ceil((1.0 - level) / self.per_s)))


def item(name: str, remaining: int, reset_s: int) -> str:
    """A `RateLimit` item of the IETF draft: what is left of policy `name`, and in how many seconds it is full again."""
    return f'"{name}";r={max(0, remaining)};t={max(0, reset_s)}'


def sends(limit: int, remaining: int, window_s: int, reset_s: int) -> tuple[str, str]:
    """Policy and item for the pace of sends, which SQL counts and reports."""
    return f'"send";q={limit};w={window_s}', item("send", remaining, reset_s)


def sends_refused(retry_after_s: int) -> tuple[str, str]:
    """The same for a send that SQL refused; a wait beyond a minute can only be the hourly limit on new contacts."""
    if retry_after_s <= _WINDOW_S:
        return sends(100, 0, _WINDOW_S, retry_after_s)
    return '"contact";q=30;w=3600', item("contact", 0, retry_after_s)


class ClientAddresses:
    """The address an anonymous request counts for, behind the proxies we trust and behind none."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def key(self, peer: str | None, forwarded_for: str | None) -> str:
        """The limiter key: an IPv4 address, or the /64 network of an IPv6 one, since a single line has all of it.

        Shape:  peer is the socket's other end; forwarded_for is all X-Forwarded-For headers, joined by commas. It is
                read right to left: each hop is believed only as long as the one that wrote it is a trusted proxy.
        Errors: none; what cannot be parsed ends the walk at the last address that could.
        """
        address = _parse(peer or "")
        if address is None:
            return "unknown"
        if forwarded_for is not None:
            for hop in reversed(forwarded_for.split(",")[-_HOPS_MAX:]):
                if not self._trusts(address) or (before := _parse(hop)) is None:
                    break
                address = before
        if address.version == 6:
            return str(ipaddress.IPv6Network((address, 64), strict=False))
        return str(address)

    def _trusts(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._trusted if network.version == address.version)


# A longer chain is not a chain of our proxies.
_HOPS_MAX = 16


def _parse(hop: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    text = hop.strip().strip('"')
    if text.startswith("["):  # [2001:db8::1]:443
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:443
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
