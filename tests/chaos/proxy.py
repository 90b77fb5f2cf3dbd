"""A TCP proxy that is a bad network: it delays, cuts, resets, falls silent, and stops the world at a named point.

Silence is what a lost route or a stuck load balancer looks like: connections stand, new ones are accepted, what is sent
is acknowledged, and nothing ever arrives. When the silence ends, what was on its way arrives late.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

_CHUNK = 1 << 16


@dataclass(eq=False)
class Trap:
    """Springs once: at the first request that holds `marker` and, in the same or a later one, `then`.

    `action` is called before that request leaves, which it then never does; or, with `answered`, as soon as its answer
    has arrived, which is not passed on. Either way the connection ends.
    """

    marker: bytes
    then: bytes = b""
    answered: bool = False
    action: Callable[[], None] = lambda: None
    sprung: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    seen: bytes = b""
    """The end of what the client has sent: a marker may be cut in two by the network."""
    marked: Trap | None = None
    waits_for_answer: Trap | None = None

    def end(self, *, reset: bool = False) -> None:
        for side in (self.client, self.server):
            if reset and (sock := side.get_extra_info("socket")) is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.transport.abort()


class Network:
    """The event loop in which proxies run, in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="network", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()

    def run(self, doing: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(doing, self.loop).result(30)

    async def _cancel(self) -> None:
        for server in self.servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """Passes connections to a loopback `port` on to `upstream`: a port on this machine, or the path of a socket."""

    def __init__(self, network: Network, upstream: int | Path) -> None:
        self._network, self._upstream = network, upstream
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refuses = False
        self._trap: Trap | None = None
        self.delay = 0.0
        """Seconds that everything takes, one way."""
        self.kept_back = 0
        """How much waits for the end of a silence."""
        self.port = 0
        network.run(self._listen())

    # -- what can be done to it, from any thread ---------------------------------------------------------------------

    def cut(self, *, reset: bool = False) -> None:
        """End all connections, with FIN or with RST. New ones are accepted."""

        def end() -> None:
            for link in list(self._links):
                link.end(reset=reset)

        self._do(end)

    def refuse(self) -> None:
        """Reset all connections, and each new one, until healed."""
        self._do(lambda: setattr(self, "_refuses", True))
        self.cut(reset=True)

    def silence(self) -> None:
        """Pass nothing on, until healed."""
        self._do(self._open.clear)

    def heal(self) -> None:
        """Pass everything on, also what was kept back, and take away an unsprung trap."""

        def heal() -> None:
            self._refuses, self._trap, self.delay = False, None, 0.0
            self._open.set()

        self._do(heal)

    def set(self, trap: Trap) -> Trap:
        """Lay a trap in place of the one that is there."""
        self._do(lambda: setattr(self, "_trap", trap))
        return trap

    def _do(self, change: Callable[[], object]) -> None:
        async def do() -> None:
            change()

        self._network.run(do())

    # -- in the loop -------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._network.servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):  # the end of a connection is no news, nor is the test's
            await self._serve(reader, writer)
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._upstream, int):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        else:
            far_reader, far_writer = await asyncio.open_unix_connection(str(self._upstream))
        link = _Link(writer, far_writer)
        if self._refuses:
            link.end(reset=True)
            return
        self._links.add(link)
        try:
            await asyncio.gather(self._requests(link, reader), self._answers(link, far_reader))
        finally:
            self._links.discard(link)
            link.end()

    async def _requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            await self._travel()
            trap = self._matched(link, data)
            if trap is not None and not trap.answered:
                self._spring(link, trap)
                return
            link.waits_for_answer = trap or link.waits_for_answer
            link.server.write(data)
            await link.server.drain()
        await self._travel()
        if link.server.can_write_eof() and not link.server.is_closing():
            link.server.write_eof()

    async def _answers(self, link: _Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK):
            if link.waits_for_answer is not None:
                self._spring(link, link.waits_for_answer)
                return
            await self._travel()
            link.client.write(data)
            await link.client.drain()
        await self._travel()
        link.end()

    async def _travel(self) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        self.kept_back += 1
        try:
            await self._open.wait()
        finally:
            self.kept_back -= 1

    def _matched(self, link: _Link, data: bytes) -> Trap | None:
        trap = self._trap
        if trap is None:
            return None
        text = link.seen + data
        start = 0
        if link.marked is not trap:
            found = text.find(trap.marker)
            if found < 0:
                link.seen = text[-len(trap.marker) :]
                return None
            link.marked, start = trap, found
        if text.find(trap.then, start) < 0:
            link.seen = text[-len(trap.then) :]
            return None
        self._trap, link.seen = None, b""
        return trap

    def _spring(self, link: _Link, trap: Trap) -> None:
        trap.action()
        link.end()
        trap.sprung.set()
