"""Patience: how many calls may be under way, so that those let in are answered soon and the rest are told at once.

A fixed bound alone promises a wait of bound / pace, and nobody knows the pace beforehand: while the database manages
eight calls a second, the last of a hundred waits twelve, past its deadline, and everything is done in vain. By Little's
law as many may be under way as end in the time that we let people wait; so that is counted, second by second.
"""

WINDOW_S = 1.0
# A call takes milliseconds, a search in a large inbox some hundred. What takes longer on average waits in a queue.
WAIT_S = 0.75
# So few are always let in: they are how a better pace is noticed, and a handful of slow ones says nothing.
FEW = 8
GROWTH_PER_S = 1.5
# When nothing began or ended for so long, what was counted before says nothing about now.
FORGOTTEN_S = 5.0


class Places:
    """The calls under way: at most `count_max`, and fewer while calls take longer than `WAIT_S` on average."""

    __slots__ = ("_count", "_count_max", "_ended", "_limit", "_most", "_since_s", "_took_s")

    def __init__(self, count_max: int, now_s: float) -> None:
        self._count_max = count_max
        self._limit = float(count_max)
        self._count = 0
        # Of the window: since when, the most at a time, how many ended, and what these took together.
        self._since_s = now_s
        self._most = self._ended = 0
        self._took_s = 0.0

    def free(self, now_s: float) -> bool:
        """Whether one more may begin. Units: now_s is monotonic seconds, as below."""
        if now_s - self._since_s >= WINDOW_S:
            self._look(now_s)
        return self._count < self._limit

    def take(self) -> None:
        """Begin one; `give_back` follows."""
        self._count += 1
        self._most = max(self._most, self._count)

    def give_back(self, took_s: float, now_s: float) -> None:
        """It has ended, however."""
        self._count -= 1
        self._ended += 1
        self._took_s += took_s
        if now_s - self._since_s >= WINDOW_S:
            self._look(now_s)

    def _look(self, now_s: float) -> None:
        elapsed_s = now_s - self._since_s
        slow = self._took_s > self._ended * WAIT_S or not self._ended
        if elapsed_s > FORGOTTEN_S:
            self._limit = self._count_max
        elif slow and self._most >= FEW:
            self._limit = min(max(FEW, self._ended / elapsed_s * WAIT_S), self._count_max)
        else:
            self._limit = min(self._limit * GROWTH_PER_S**elapsed_s, self._count_max)
        self._since_s, self._most, self._ended, self._took_s = now_s, self._count, 0, 0.0
