"""On a silent network nothing waits longer than it may: see docs/deadlines.md.

Silence is worse than a lost route: connections are accepted and packets acknowledged, and nothing ever answers.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from reconciler import ending, manager
from reconciler.clock import SystemClock
from reconciler.controllers import adopt, cleanup
from reconciler.core.errors import EcsUnavailable, StoreUnavailable
from reconciler.core.phase import Phase
from reconciler.ecs import client as client_module
from reconciler.ecs import events
from reconciler.ecs.credentials import chain, make_session
from reconciler.ecs.gateway import Gateway
from reconciler.ecs.ratelimit import Limiter
from reconciler.ecs.role import assumed
from reconciler.localecs import LocalEcs
from reconciler.store import watchdog
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine
from reconciler.store.watchdog import watch
from tests.chaos.airflow import Program
from tests.chaos.proxy import Network, Proxy
from tests.chaos.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.conftest import Postgres

LONG = 120.0
"""Seconds, far above every bound here: whoever has not come back by then hangs."""


def ended(do: Callable[[], object]) -> object:
    """What `do` returns or raises. It must not hang: that would fail the test, and not stop the suite."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(do())
        except Exception as error:  # noqa: BLE001 - is what the caller asked for
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG)
    assert outcome, "it hangs"
    return outcome[0]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


class Silent:
    """A database behind a proxy, and the daemon's engine on it, which gives up after some seconds."""

    def __init__(self, proxy: Proxy, engine: Engine) -> None:
        self.proxy, self.engine = proxy, engine
        self.store = SqlStore(engine, "prod")

    def hush_before(self, name: str) -> None:
        """Fall silent at the next statement, commit or ping."""
        event.listen(self.engine, name, lambda *_: self.proxy.silence(), once=True)


@pytest.fixture(params=["psycopg", "psycopg2"])
def silent(
    request: pytest.FixtureRequest,
    network: Network,
    postgres: Postgres,
    postgres_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Silent]:
    if request.param == "psycopg2":
        monkeypatch.setitem(sys.modules, "psycopg", None)  # what Python makes of a module that can not be imported
    monkeypatch.setattr(watchdog, "ANSWER_SECONDS", 3)
    proxy = Proxy(network, postgres.socket)
    url = f"postgresql://{postgres.user}@127.0.0.1:{proxy.port}/{postgres_database}"
    engine = make_engine(f"{url}?sslmode=disable&gssencmode=disable&connect_timeout=10")
    assert engine.dialect.driver == request.param
    watch(engine)
    yield Silent(proxy, engine)
    proxy.heal()
    engine.dispose()


@pytest.mark.postgres
class TestDatabase:
    """Every wait for PostgreSQL ends, with either driver, and the next one after the silence is served."""

    @pytest.mark.parametrize("moment", ["begin", "before_cursor_execute", "commit"])
    def test_an_answer_that_does_not_come_is_given_up(self, silent: Silent, moment: str) -> None:
        before = silent.store.now()
        silent.hush_before(moment)

        outcome = ended(partial(silent.store.hold, "deadlines/shard", "me", timedelta(minutes=1)))

        assert isinstance(outcome, StoreUnavailable), outcome
        silent.proxy.heal()
        assert silent.store.now() > before

    def test_connections_that_idled_through_it_are_found_dead(self, silent: Silent) -> None:
        before = silent.store.now()
        silent.proxy.silence()
        assert isinstance(ended(silent.store.now), StoreUnavailable)
        silent.proxy.heal()
        assert silent.store.now() > before

    def test_a_connection_that_is_accepted_and_never_greeted_is_given_up(self, silent: Silent) -> None:
        silent.proxy.silence()
        assert isinstance(ended(silent.store.now), StoreUnavailable)

    def test_what_is_merely_idle_is_left_alone(self, silent: Silent) -> None:
        """The watchdog looks at connections in use only."""
        cut: list[object] = []
        event.listen(silent.engine, "invalidate", lambda *_: cut.append(True))
        silent.store.now()
        threading.Event().wait(8)  # the watchdog counts its rounds: only time can show that it does not
        assert silent.store.now() is not None
        assert not cut


def test_an_ecs_that_does_not_answer_is_given_up(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anything")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "goes")
    with behind_proxies(network, monkeypatch) as (gateway, ecs, _):
        assert gateway.describe_cluster("default") is not None
        ecs.silence()
        assert isinstance(ended(lambda: gateway.describe_cluster("default")), EcsUnavailable)
        ecs.heal()
        assert gateway.describe_cluster("default") is not None


def test_credentials_that_do_not_come_are_given_up(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role of a pod in EKS, which boto3 fetches from STS."""
    (tmp_path / "token").write_text("a token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/daemon")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with behind_proxies(network, monkeypatch) as (gateway, _, sts):
        sts.silence()
        assert isinstance(ended(lambda: gateway.describe_cluster("default")), EcsUnavailable)


def test_another_accounts_credentials_that_do_not_come_are_given_up(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role of a queue, which we fetch ourselves."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anything")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "goes")
    with behind_proxies(network, monkeypatch, role_arn="arn:aws:iam::123456789012:role/queue") as (gateway, _, sts):
        sts.silence()
        assert isinstance(ended(lambda: gateway.describe_cluster("default")), EcsUnavailable)


@contextmanager
def behind_proxies(
    network: Network, monkeypatch: pytest.MonkeyPatch, role_arn: str = ""
) -> Iterator[tuple[Gateway, Proxy, Proxy]]:
    """A gateway that waits five seconds for each answer, and proxies before ECS and, for show, before STS."""
    monkeypatch.setattr(client_module, "READ_TIMEOUT", 5.0)
    clock = SystemClock()
    with LocalEcs() as server:
        port = int(server.endpoint_url.rpartition(":")[2])
        ecs, sts = Proxy(network, port), Proxy(network, port)
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", f"http://127.0.0.1:{ecs.port}")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{sts.port}")
        session = make_session(chain, clock)
        gateway = Gateway(
            client_module.make_client(
                "us-east-1", threads=2, session=assumed(session, role_arn, "us-east-1") if role_arn else session
            ),
            Limiter(clock, launch_rate=1, launch_burst=1),
            clock,
            deployment="prod",
            now=lambda: (_ for _ in ()).throw(AssertionError),
            resend_for=timedelta(minutes=20),
            on_call=lambda *_: None,
        )
        yield gateway, ecs, sts
        gateway.close()


def test_a_process_that_was_told_to_stop_ends_whatever_hangs() -> None:
    """Its thread waits for ever: without the last resort so would the interpreter at its end."""
    script = (
        "import threading\n"
        "from reconciler import ending\n"
        "from reconciler.clock import SystemClock\n"
        "ending.END_SECONDS = 0.5\n"
        "clock = SystemClock()\n"
        "ending.end_in_time(clock)\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "clock.stop()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    assert "something does not answer" in done.stdout


def test_the_bounds_fit_into_each_other() -> None:
    """docs/deadlines.md rests on these inequalities."""
    connect, ping, greeting, answer = 10.0, *[watchdog.ANSWER_SECONDS + 1.0] * 3
    store = ping + connect + greeting + answer
    ecs = (client_module.CONNECT_TIMEOUT + client_module.READ_TIMEOUT) * (1 + client_module.STS_ATTEMPTS)
    assert store + cleanup.STOP_FOR + ecs < manager.STUCK_AFTER
    # A listing is two calls at least. Orphans are stopped in a pass of their own.
    assert store + adopt.LIST_FOR + 2 * ecs < manager.STUCK_AFTER
    assert store + adopt.STOP_FOR + ecs < manager.STUCK_AFTER
    assert events.WAIT + 1 < manager.PASSES_SECONDS
    assert manager.PASSES_SECONDS + manager.END_SECONDS < ending.END_SECONDS < 10.0


@pytest.mark.postgres
@pytest.mark.timeout(900)
def test_a_daemon_whose_network_falls_silent_yields_and_comes_back(tmp_path: Path) -> None:
    """The leader's database falls silent: it does nothing any more, another takes over, and it comes back by itself.

    Then database and ECS fall silent for one that is told to stop, and for one that has not even started: both end.
    """
    with World(tmp_path) as world:
        first = world.wait_for_leader()
        (other,) = (replica for replica in world.replicas if replica is not first)
        world.until(lambda: "serving metrics" in other.log.read_text(), "the other replica")
        first.db.silence()
        work = [world.scheduler.add(Program()) for _ in range(2)]
        world.until(lambda: world.leader() is other, "another leader")
        world.until(lambda: done(world, work), "the work that was waiting")
        world.until(lambda: "the database did not answer" in first.log.read_text(), "the end of its patience")
        first.db.heal()
        other.terminate()
        world.until(lambda: world.leader() is first, "the first to lead again")
        more = [world.scheduler.add(Program()) for _ in range(2)]
        world.until(lambda: done(world, more), "work after the silence")

        for silent in (first, other):
            silent.db.silence()
            silent.ecs.silence()
        # At once: a pass that has begun waits for seconds yet, and later this replica may only stand by.
        world.until(lambda: first.db.kept_back > 0, "a pass that waits for the database")
        first.terminate()
        assert first.process is not None
        assert first.process.wait(LONG) == 0
        assert "something does not answer" in first.log.read_text()
        ended_before_it_started(world, other)

        assert world.judge() == []


def ended_before_it_started(world: World, replica: Any) -> None:
    """SIGTERM while it waits for the database at its start."""
    serving = replica.log.read_text().count("serving metrics")
    replica.process.wait(LONG)
    replica.start()
    world.until(lambda: replica.log.read_text().count("serving metrics") > serving, "its start")
    replica.terminate()
    assert replica.process.wait(LONG) == 0


def done(world: World, names: list[str]) -> bool:
    return all(world.scheduler.tis[name].state == "success" for name in names) and any(
        row.phase is Phase.EXITED for row in world.rows()
    )
