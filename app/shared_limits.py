"""The edge limiter's buckets in Redis or Valkey, shared by all copies of the service.

A shield, so it fails open: without an answer within a moment the bucket of this process decides, and the log says so.
"""

import time

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from app import log
from app.limits import Limiter, Verdict

# In the same network an answer takes less than a millisecond; waiting longer would cost more than the shield is worth.
_TIMEOUT_S = 0.05
# While it is away only one request in this time pays for finding out.
_PAUSE_S = 1.0
_CONNECTIONS_MAX = 50

# The same arithmetic as Limiter.take, by Redis' own clock: copies of the service need not agree on the time.
# A bucket that has been full for its whole window is as good as none, so it expires then.
_TAKE = """
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1000000
local quota, per_s = tonumber(ARGV[1]), tonumber(ARGV[2])
local bucket = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, at = tonumber(bucket[1]) or quota, tonumber(bucket[2]) or now
level = math.min(quota, level + math.max(0, now - at) * per_s)
local allowed = level >= 1 and 1 or 0
level = level - allowed
redis.call('HSET', KEYS[1], 'level', string.format('%.6f', level), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil(quota / per_s))
return {allowed, string.format('%.6f', level)}
"""


class SharedBuckets:
    """Token buckets in one Redis or Valkey."""

    def __init__(self, url: str) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS_MAX,
            timeout=_TIMEOUT_S,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
        )
        self._redis = Redis.from_pool(pool)
        self._take = self._redis.register_script(_TAKE)
        self._away_until_s = 0.0

    async def take(self, limiter: Limiter, key: str, now_s: float) -> Verdict:
        """Take one request from the shared bucket of `key`, or from the limiter's own while Redis does not answer.

        Units:  as Limiter.take.
        Errors: none.
        """
        if now_s < self._away_until_s:
            return limiter.take(key, now_s)
        try:
            allowed, level = await self._take(
                keys=[f"gig-messaging:limit:{limiter.name}:{key}"], args=[limiter.quota, limiter.per_s]
            )
        except (RedisError, OSError, TimeoutError) as error:
            self._away_until_s = time.monotonic() + _PAUSE_S
            log.warning("shared_limits_unavailable", error=type(error).__name__)
            return limiter.take(key, now_s)
        return limiter.verdict(bool(allowed), float(level))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
