"""One process of the operator: caches, servers, election and controllers, started in order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from florence_operator.runtime.controller import Controller
from florence_operator.runtime.informer import Informer
from florence_operator.runtime.leader import Leader, LeadershipLostError
from florence_operator.runtime.webserver import WebServer

log = logging.getLogger(__name__)

Task = Callable[[], Awaitable[None]]


class Manager:
    """Runs until a signal or a lost lease.

    ``tasks`` and ``servers`` run on every replica, ``controllers`` and ``leading`` on the leader.
    ``early`` servers start at once: they tell what is wrong; the others when the caches are filled.
    ``ready`` is asked for more reasons not to be ready; ``filled`` is called when the caches are
    filled. A replica seeks the lease only when ``fit_to_lead`` has ended: until then it serves, and
    another one may lead.

    A replica that is asked to stop says at once that it is not ready, gives up the lease, and goes
    on serving for ``shutdown_delay`` seconds, until nobody is sent to it any more.
    """

    def __init__(
        self,
        *,
        informers: Sequence[Informer] = (),
        servers: Sequence[WebServer] = (),
        early: Sequence[WebServer] = (),
        tasks: Sequence[Task] = (),
        controllers: Sequence[Controller] = (),
        leading: Sequence[Task] = (),
        leader: Leader | None = None,
        ready: Callable[[], Sequence[str]] = tuple,
        filled: Callable[[], object] = lambda: None,
        fit_to_lead: Callable[[], Awaitable[object]] | None = None,
        grace: float = 20.0,
        shutdown_delay: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._informers = tuple(informers)
        self._servers = tuple(servers)
        self._early = tuple(early)
        self._tasks = tuple(tasks)
        self._controllers = tuple(controllers)
        self._leading = tuple(leading)
        self._leader = leader
        self._ready = ready
        self._filled = filled
        self._fit_to_lead = fit_to_lead
        self._grace = grace
        self._shutdown_delay = shutdown_delay
        self._sleep = sleep
        self._stopping = asyncio.Event()
        self._serving = False

    def stop(self) -> None:
        """Begins an orderly end, as SIGTERM does."""
        self._stopping.set()

    def unhealthy(self) -> list[str]:
        """Why the process should be restarted; that it answers shows that its event loop runs."""
        return [
            f"the informer of {informer.resource.plural} has not tried anything for "
            f"{informer.silent_seconds:.0f}s"
            for informer in self._informers
            if informer.stuck
        ]

    def unready(self) -> list[str]:
        """Why the replica should get no requests."""
        problems = [
            f"the cache of {informer.resource.plural} is not filled"
            for informer in self._informers
            if not informer.synced.is_set()
        ]
        if self._stopping.is_set():
            problems.append("it was asked to stop")
        elif not self._serving and not problems:
            problems.append("the servers have not started")
        return [*problems, *self._ready()]

    async def run(self) -> int:
        """Runs the replica and gives its exit code: 0 after a signal, 1 after a lost lease."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            return await self._run()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _run(self) -> int:
        code = 0
        async with AsyncExitStack() as servers, asyncio.TaskGroup() as group:
            for server in self._early:
                await servers.enter_async_context(server)
            background = [group.create_task(_forever(run)) for run in self._tasks]
            background += [group.create_task(informer.run()) for informer in self._informers]
            try:
                if await self._until_stopped(self._synced()):
                    for server in self._servers:
                        await servers.enter_async_context(server)
                    self._serving = True
                    if self._fit_to_lead is None or await self._until_stopped(self._fit_to_lead()):
                        await self._elected()
                    await self._sleep(self._shutdown_delay)
            except LeadershipLostError as error:
                log.error("ends: %s", error)
                code = 1
            finally:
                self._serving = False
                for task in background:
                    task.cancel()
        return code

    async def _synced(self) -> None:
        for informer in self._informers:
            await informer.synced.wait()
        self._filled()
        log.info("filled the caches", extra={"objects": sum(map(len, self._informers))})

    async def _elected(self) -> None:
        """Waits for the lease and leads; without an election it leads at once."""
        if self._leader is None:
            await self._lead()
            return
        election = asyncio.ensure_future(self._leader.run(self._lead))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({election, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not election.done() and not self._leader.leads:
                election.cancel()
            # A leader ends by itself: its work sees that it is to stop, and the lease follows.
            await asyncio.wait({election})
        finally:
            stopping.cancel()
            if not election.done():
                election.cancel()
                await asyncio.wait({election})
        if not election.cancelled():
            election.result()

    async def _lead(self) -> None:
        """Works until it is told to stop, and then lets the reconciles in flight end."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_forever(run)) for run in self._leading]
            work = [group.create_task(controller.run()) for controller in self._controllers]
            await self._stopping.wait()
            for controller in self._controllers:
                controller.stop()
            if work:
                _, late = await asyncio.wait(work, timeout=self._grace)
                if late:
                    log.warning("reconciles did not end within %gs", self._grace)
            for task in (*tasks, *work):
                task.cancel()

    async def _until_stopped(self, work: Awaitable[object]) -> bool:
        """Whether the work was done before the signal."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return task.done() and not self._stopping.is_set()
        finally:
            task.cancel()
            stopping.cancel()


async def _forever(run: Task) -> None:
    """A task of the replica; one that ends by itself is a bug that must not stay unseen."""
    await run()
    raise RuntimeError(f"{getattr(run, '__qualname__', run)} ended by itself")
