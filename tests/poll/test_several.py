"""Several connectors in one run, and several runs at once: each does its work, and none does another's."""

from __future__ import annotations

from contextlib import ExitStack
from time import sleep

import pytest

from poprep_cli.embedded.pop3 import Mail, Maildrop, Pop3Server
from tests.poll.world import PASSWORD, Pop3Faults, SmtpFaults, World, closed_port, finished, letter, settled


def test_two_connectors_share_the_servers(world: World) -> None:
    other = Pop3Server(Maildrop(), user="sales", password=PASSWORD)
    with other:
        other.maildrop.add(letter(50), b"u1")
        world.more = world.tables("Sales.desk-2".replace(".", "_"), other, "sales")
        world.letters(2)
        world.run().ended(0)
        assert sorted(world.arrived) == sorted([*world.sent, letter(50)])
        assert other.maildrop.mail() == ()
        assert world.left == []
        assert world.statuses("Sales_desk-2") == {"u1": "deleted"}
        assert world.statuses() == {"u1": "deleted", "u2": "deleted"}


@pytest.mark.parametrize(
    ("faults", "code", "worst"),
    [
        (Pop3Faults(apop=False, refuse_user=b"-ERR [AUTH] no\r\n"), 77, 77),
        (Pop3Faults(greeting=b"nonsense\r\n"), 76, 76),
        (Pop3Faults(greeting=b"-ERR no\r\n"), 69, 69),
        (Pop3Faults(retr={1: "err"}), 1, 75),
    ],
)
def test_a_connector_that_fails_does_not_stop_the_other(
    world: World, faults: Pop3Faults, code: int, worst: int
) -> None:
    failing = Pop3Server(Maildrop(), user="sales", password=PASSWORD, faults=faults)
    with failing:
        failing.maildrop.add(letter(50), b"u1")
        nobody = f"127.0.0.1:{closed_port()}"
        world.more = world.tables("a_first", failing, "sales")
        world.more += world.tables("b_nobody").replace(world.pop3.address, nobody)
        world.letters(2)
        done = world.poll()
        assert done.code == worst
        assert sum(sentence.startswith("a_first: ") for sentence in done.sentences) == 1
        assert sum(sentence.startswith("b_nobody: can't connect") for sentence in done.sentences) == 1
        assert not any(sentence.startswith("office") for sentence in done.sentences)
        assert world.arrived == world.sent
        assert world.left == []
        document = world.poll("--json", "--force").document
        codes = {connector["connector"]: connector["exit_code"] for connector in document["connectors"]}
        assert codes == {"a_first": code, "b_nobody": 75, "office": 0}
        world.poll("office").ended(0)


def test_two_runs_at_once(world: World) -> None:
    world.letters(2)
    world.timeout = 10
    world.pop3.faults = Pop3Faults(greeting_delay=1.0)
    first = world.start()
    while not world.pop3.sessions:
        sleep(0.01)
    world.run().ended(75, "office: another run of poprep is working on connector office")
    document = world.poll("--json").document
    assert (document["exit_code"], document["connectors"][0]["reason"]) == (75, "locked")
    finished(first).ended(0)
    assert world.arrived == world.sent
    assert len(world.pop3.sessions) == 1
    world.recovers()


def test_a_killed_run_leaves_no_lock(world: World) -> None:
    world.letters(3)
    world.timeout = 20
    world.pop3.faults = Pop3Faults(retr={2: "hang-mid"})
    first = world.start()
    settled(world, first)
    first.kill()
    finished(first)
    assert (world.state / "office.lock").exists()
    assert world.statuses() == {"u1": "delivered", "u2": "seen", "u3": "seen"}
    world.recovers()


def test_a_kill_while_in_doubt_costs_one_repeat(world: World) -> None:
    world.letters(3)
    world.timeout = 20
    world.smtp.faults = SmtpFaults(hang="after-accept", only={"after-accept": (2,)})
    first = world.start()
    settled(world, first)
    first.kill()
    finished(first)
    assert world.statuses() == {"u1": "delivered", "u2": "sending", "u3": "seen"}
    done = world.recovers(repeated=1)
    done.ended(0, "message u2: delivered again: an earlier pass ended in doubt")


def mailboxes(count: int) -> list[Pop3Server]:
    """Return so many servers, each with a message."""
    servers = []
    for number in range(count):
        server = Pop3Server(Maildrop([Mail(b"x", letter(1000 + number))]), user="office", password=PASSWORD)
        servers.append(server)
    return servers


@pytest.mark.parametrize("jobs", ["1", "2", "8"])
def test_several_at_a_time(world: World, jobs: str) -> None:
    world.letters(1)
    with ExitStack() as stack:
        others = [stack.enter_context(server) for server in mailboxes(5)]
        for server in others:
            server.faults = Pop3Faults(latency=0.02)
        world.more = "\n".join(world.tables(f"c{number}", server) for number, server in enumerate(others))
        done = world.poll("--json", "--jobs", jobs)
    assert done.code == 0
    assert [one["connector"] for one in done.document["connectors"]] == ["c0", "c1", "c2", "c3", "c4", "office"]
    assert [one["delivered"] for one in done.document["connectors"]] == [1] * 6
    assert len(world.smtp.delivered) == 6


def test_shards_share_the_connectors(world: World) -> None:
    world.letters(1)
    names = ["office", *(f"c{number}" for number in range(9))]  # all of the same mailbox, so one at a time
    world.more = "\n".join(world.tables(name) for name in names[1:])
    polled = []
    for number in range(3):
        done = world.poll("--json", "--dry-run", "--jobs", "1", "--shard", f"{number}/3")
        assert done.code == 0
        polled += [one["connector"] for one in done.document["connectors"]]
    assert sorted(polled) == sorted(names)


@pytest.mark.parametrize("shard", ["3/3", "x", "auto", "1/0"])
def test_a_shard_that_is_none(world: World, shard: str) -> None:
    done = world.poll("--shard", shard)
    assert done.code == 2
    assert "--shard" in done.err


def test_the_index_of_a_kubernetes_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    done = world.poll("--json", "--dry-run", "--shard", "auto/1")
    assert [one["connector"] for one in done.document["connectors"]] == ["office"]
