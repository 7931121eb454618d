"""What a hosted project on the Free plan refuses: sizes and rates. Off unless STACK_REALTIME_LIMITS=1."""

from __future__ import annotations

import time
from collections import deque

from stack.realtime_tokens import Refused
from stack.realtime_wire import Broadcast

CONNECTIONS_MAX = 200
CHANNELS_PER_CONNECTION_MAX = 100
JOINS_PER_S = 100
MESSAGES_PER_S = 100  # every send and every delivery counts; an average
MESSAGES_WINDOW_S = 60.0
PRESENCE_MESSAGES_PER_S = 20
PRESENCE_CALLS = 5
PRESENCE_CALLS_WINDOW_S = 30.0
PAYLOAD_BYTES_MAX = 256 * 1000 + 500


class Rate:
    """At most `most` in any `window_s` seconds, counted in sixty steps."""

    def __init__(self, most: int, window_s: float) -> None:
        self.most, self.window_s = most, window_s
        self._steps: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, count: int = 1) -> bool:
        """Count; False when that is too many."""
        now = time.monotonic()
        while self._steps and self._steps[0][0] < now - self.window_s:
            self._sum -= self._steps.popleft()[1]
        if self._steps and now - self._steps[-1][0] < self.window_s / 60:
            count += self._steps[-1][1]
            self._sum -= self._steps[-1][1]
            self._steps[-1] = (self._steps[-1][0], count)
        else:
            self._steps.append((now, count))
        self._sum += count
        return self._sum <= self.most


class Limits:
    """All of a project's counters; with `on=False` nothing is ever too much."""

    def __init__(self, *, on: bool) -> None:
        self.on = on
        self._messages = Rate(int(MESSAGES_PER_S * MESSAGES_WINDOW_S), MESSAGES_WINDOW_S)
        self._joins = Rate(JOINS_PER_S, 1.0)
        self._presence = Rate(PRESENCE_MESSAGES_PER_S, 1.0)

    def too_large(self, broadcast: Broadcast) -> str | None:
        """The words of a refusal, or None."""
        return "Payload size exceeds tenant limit" if self.on and broadcast.size > PAYLOAD_BYTES_MAX else None

    def too_many_messages(self, count: int) -> bool:
        """Count sends and deliveries."""
        return self.on and not self._messages.add(count)

    def too_many_presence_messages(self) -> bool:
        return self.on and not self._presence.add()

    def count_rest(self, count: int) -> None:
        """Raises Refused."""
        if self.too_many_messages(count):
            raise Refused("TooManyRequests", "You have exceeded your rate limit")

    def check_join(self, channels: int, connections: int) -> None:
        """Raises Refused for a join that is one too many."""
        if not self.on:
            return
        if not self._joins.add():
            raise Refused("ClientJoinRateLimitReached", "Too many joins per second")
        if channels >= CHANNELS_PER_CONNECTION_MAX:
            raise Refused("ChannelRateLimitReached", "Too many channels")
        if connections > CONNECTIONS_MAX:
            raise Refused("ConnectionRateLimitReached", "Too many connected users")

    def presence_calls(self) -> Rate:
        """The counter of one channel."""
        return Rate(PRESENCE_CALLS if self.on else 2**62, PRESENCE_CALLS_WINDOW_S)
