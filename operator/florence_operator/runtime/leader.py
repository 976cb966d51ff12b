"""Election: of several replicas one works, and it stops before another may begin."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from florence_operator.kube.client import LEASES, Client
from florence_operator.kube.errors import ApiError

log = logging.getLogger(__name__)

Document = dict[str, Any]


class LeadershipLostError(Exception):
    """The lease could not be kept, or is not held: nothing may be written any more."""


def micro_time(moment: datetime) -> str:
    """A time as Kubernetes' MicroTime: UTC, always six digits, and a Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a lease lasts, and how hard it is tried to keep it; all in seconds."""

    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_period < self.renew_deadline < self.lease_duration:
            raise ValueError(
                "leader_election: retry_period must be shorter than renew_deadline, and that "
                "shorter than lease_duration"
            )


class Leader:
    """One candidate for a Lease.

    Other candidates' clocks are not believed: a lease has expired when its record has not changed
    for its duration, measured here with a clock that is never set.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        on_change: Callable[[bool], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
        seed: int | None = None,
    ) -> None:
        self.identity = identity
        # The lease must not wait behind the work that it protects.
        self._client = client.unlimited()
        self._namespace = namespace
        self._name = name
        self._timing = timing or Timing()
        self._on_change = on_change or (lambda leads: None)
        self._clock = clock
        self._now = now
        self._random = random.Random(seed)
        self._lease: Document | None = None
        self._record: tuple[Any, ...] = ()
        self._changed = clock()
        self._renewed = float("-inf")
        self._set(False)

    @property
    def holder(self) -> str:
        """Who leads, as far as is known here; empty when nobody does."""
        return str(self._spec.get("holderIdentity") or "")

    @property
    def leads(self) -> bool:
        """Whether this replica leads and has renewed its lease in time."""
        return self._leads and self._clock() - self._renewed < self._timing.renew_deadline

    def check(self) -> None:
        """Does nothing while this replica leads.

        Raises:
            LeadershipLostError: it does not, or was paused for so long that another may.
        """
        if not self.leads:
            raise LeadershipLostError(f"lease {self._namespace}/{self._name} is not held")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the lease, calls ``lead`` and keeps the lease until that returns.

        The lease is given up when ``lead`` has ended, never before.

        Raises:
            LeadershipLostError: the lease was lost; ``lead`` has been cancelled and has ended.
        """
        await self._acquire()
        log.info("leads with lease %s/%s as %s", self._namespace, self._name, self.identity)
        self._set(True)
        work = asyncio.ensure_future(lead())
        keep = asyncio.create_task(self._keep(), name="lease")
        try:
            await asyncio.wait({work, keep}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost = keep.done()
            if lost:
                self._set(False)
            try:
                await _ended(work)
            finally:
                keep.cancel()
                self._set(False)
                if not lost:
                    await self._release()
        if lost:
            keep.result()
        work.result()

    async def _acquire(self) -> None:
        while True:
            started = self._clock()
            try:
                async with asyncio.timeout(self._timing.renew_deadline):
                    taken = await self._try_to_take()
            except Exception as error:
                log.log(
                    logging.DEBUG
                    if isinstance(error, ApiError) and error.conflict
                    else logging.WARNING,
                    "could not try for lease %s/%s: %s",
                    self._namespace,
                    self._name,
                    error or type(error).__name__,
                )
                taken = False
            if taken and self._clock() - started < self._timing.renew_deadline:
                self._renewed = started
                return
            # Candidates that began together must not go on asking together.
            await asyncio.sleep(self._timing.retry_period * (1 + 0.2 * self._random.random()))

    async def _try_to_take(self) -> bool:
        try:
            lease = await self._read()
        except ApiError as error:
            if not error.not_found:
                raise
            self._observe(await self._client.create(self._new()))
            return True
        self._observe(lease)
        if self.holder not in ("", self.identity) and not self._expired():
            return False
        self._observe(await self._client.replace(self._ours(taking=True)))
        return True

    async def _keep(self) -> None:
        """Renews until it fails for too long; never returns otherwise."""
        while True:
            await asyncio.sleep(self._timing.retry_period)
            while True:
                left = self._renewed + self._timing.renew_deadline - self._clock()
                if left <= 0:
                    raise LeadershipLostError(
                        f"lease {self._namespace}/{self._name} was not renewed for "
                        f"{self._timing.renew_deadline:g}s"
                    )
                started = self._clock()
                try:
                    async with asyncio.timeout(left):
                        await self._renew()
                except LeadershipLostError:
                    raise
                except Exception as error:
                    log.warning("the lease was not renewed: %s", error or type(error).__name__)
                    await asyncio.sleep(min(self._timing.retry_period, max(left, 0.0)) / 2)
                    continue
                self._renewed = started
                break

    async def _renew(self) -> None:
        try:
            self._observe(await self._client.replace(self._ours(taking=False)))
        except ApiError as error:
            if error.not_found:
                self._observe(await self._client.create(self._new()))
                return
            if not error.conflict:
                raise
            self._observe(await self._read())
            if self.holder != self.identity:
                raise LeadershipLostError(
                    f"lease {self._namespace}/{self._name} was taken by {self.holder or 'nobody'}"
                ) from None
            raise

    async def _release(self) -> None:
        """Gives the lease up if it can be done soon; it expires by itself otherwise."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.retry_period):
                while self._lease is not None and self.holder == self.identity:
                    lease = self._ours(taking=False)
                    lease["spec"].update(holderIdentity="", leaseDurationSeconds=1)
                    try:
                        self._observe(await self._client.replace(lease))
                        log.info("gave up lease %s/%s", self._namespace, self._name)
                    except ApiError as error:
                        await asyncio.sleep(self._timing.retry_period / 10)
                        if error.conflict:
                            with suppress(ApiError):
                                self._observe(await self._read())

    @property
    def _spec(self) -> Document:
        return (self._lease or {}).get("spec") or {}

    async def _read(self) -> Document:
        return await self._client.get(LEASES, self._name, self._namespace)

    def _expired(self) -> bool:
        duration = float(self._spec.get("leaseDurationSeconds") or self._timing.lease_duration)
        return self._clock() - self._changed >= duration

    def _observe(self, lease: Document) -> None:
        self._lease = lease
        spec = self._spec
        record = tuple(spec.get(k) for k in ("holderIdentity", "renewTime", "leaseTransitions"))
        if record != self._record:
            self._record = record
            self._changed = self._clock()

    def _new(self) -> Document:
        now = micro_time(self._now())
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._fields(now, acquired=now, transitions=0),
        }

    def _ours(self, *, taking: bool) -> Document:
        """The observed lease, held by us from now on, or still."""
        now = micro_time(self._now())
        spec = self._spec
        transitions = int(spec.get("leaseTransitions") or 0)
        moves = taking and self.holder != self.identity
        acquired = now if moves else spec.get("acquireTime") or now
        fields = self._fields(now, acquired=acquired, transitions=transitions + moves)
        return {**(self._lease or {}), "spec": {**spec, **fields}}

    def _fields(self, now: str, *, acquired: str, transitions: int) -> Document:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._timing.lease_duration)),
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    def _set(self, leads: bool) -> None:
        self._leads = leads
        self._on_change(leads)


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancels a task and waits until it has ended, even when the waiting is cancelled."""
    cancelled = False
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
