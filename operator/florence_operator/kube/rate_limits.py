"""How fast things may happen: a token bucket, and delays that grow."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


class TokenBucket:
    """At most ``burst`` at once and ``rate`` a second after that; who comes first goes first."""

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(burst)
        self._counted = clock()

    async def acquire(self) -> None:
        """Waits for its turn."""
        self._refill()
        self._tokens -= 1
        if self._tokens >= 0:
            return
        try:
            await self._sleep(-self._tokens / self._rate)
        except asyncio.CancelledError:
            self._tokens += 1
            raise

    def try_acquire(self) -> bool:
        """Takes a token if there is one now."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def full(self) -> bool:
        """Whether nothing was taken for so long that the bucket need not be kept."""
        self._refill()
        return self._tokens >= self._burst

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._counted) * self._rate)
        self._counted = now


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delays that double from ``first`` up to ``longest``, each made random by ``jitter``."""

    first: float = 0.5
    longest: float = 30.0
    jitter: float = 0.5
    """Share of a delay that is random: 0.5 gives between half of it and all of it."""
    random: random.Random = field(default_factory=random.Random)

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row; 0 failures are no wait."""
        if failures <= 0:
            return 0.0
        whole = min(self.longest, self.first * 2.0 ** min(failures - 1, 40))
        return whole * (1.0 - self.jitter * self.random.random())
