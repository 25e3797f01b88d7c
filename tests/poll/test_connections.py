"""Several submission sessions in one pass: when they are opened, what goes through them, and what a break or a kill costs."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter

import pytest

from poprep_cli.embedded.smtp_faults import Stage
from poprep_cli.engine import sessions
from poprep_cli.net import data_transfer
from tests.poll.world import DUPLICATE, POSIX, Pop3Faults, SmtpFaults, World, content_of, letter

DISTANT = 0.02  # seconds before each group of replies
BY = pytest.mark.parametrize("by", ["DATA", "BDAT", "LMTP", "one by one"])
ONE_BY_ONE = (b"8BITMIME", b"SIZE 100000000")  # no PIPELINING


def arrange(world: World, by: str = "DATA", connections: int = 3, more: str = "") -> World:
    """Have mail sent by DATA or BDAT, to an LMTP server, or one command at a time."""
    world.smtp.chunking = by == "BDAT"
    world.smtp.lmtp = by == "LMTP"
    protocol = "lmtp" if by == "LMTP" else "smtp"
    world.smtp_lines = f'connections = {connections}\nprotocol = "{protocol}"\n{more}'
    return world


def faults(by: str, **kinds: object) -> SmtpFaults:
    announce = ONE_BY_ONE if by == "one by one" else None
    return SmtpFaults(latency=DISTANT, announce=announce, **kinds)  # type: ignore[arg-type]


def used(world: World) -> list[int]:
    """Return how many messages began in each session, without those of sessions that had none."""
    return [count for session in world.smtp.sessions if (count := session.verbs.count("MAIL"))]


def in_doubt(world: World) -> list[str]:
    return [slip["uidl"] for slip in world.kept("held") if slip.get("in_doubt")]


@BY
def test_mail_goes_through_all_of_them(world: World, by: str) -> None:
    arrange(world, by).letters(60)
    world.smtp.faults = faults(by)
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    assert len(used(world)) == 3
    assert by == "BDAT" or min(used(world)) >= 10
    assert all("QUIT" in session.verbs for session in world.smtp.sessions)
    assert not any(DUPLICATE in message.content for message in world.smtp.delivered)
    assert world.left == []


@BY
def test_one_message_opens_one(world: World, by: str) -> None:
    arrange(world, by, 16).letters(1)
    world.smtp.faults = faults(by)
    world.poll().ended(0)
    assert len(world.smtp.sessions) == 1
    world.recovers()


@pytest.mark.parametrize("by", ["DATA", "BDAT"])
def test_several_share_the_round_trips(world: World, by: str) -> None:
    """Sixty messages by DATA take as many round trips, one after the other."""
    arrange(world, by, 6, "max_in_flight = 1").letters(60)
    world.smtp.faults = faults(by)
    world.poll().ended(0)
    assert len(used(world)) == 6
    assert max(session.batches for session in world.smtp.sessions) < 30


@BY
def test_the_second_is_refused(world: World, by: str) -> None:
    arrange(world, by).letters(40)
    world.smtp.faults = faults(by, max_connections=1)
    done = world.poll(options=("-v",))
    assert done.code == 0, done
    assert "no further SMTP connection in this pass, going on with 1" in done.err
    assert Counter(world.arrived) == Counter(world.sent)
    assert len(used(world)) == 1
    assert len(world.smtp.sessions) == 2  # it was tried once
    world.recovers()


def test_one_that_is_slow_to_open_keeps_nothing_waiting(world: World) -> None:
    arrange(world).letters(20)
    world.smtp.faults = SmtpFaults(latency=0.01, delay={"greeting": 4}, only={"greeting": range(2, 99)})
    world.poll().ended(0)
    assert len(used(world)) == 1
    world.recovers()


def test_one_that_is_slow_to_answer_keeps_nothing_waiting(world: World) -> None:
    arrange(world).letters(40)
    world.smtp.faults = SmtpFaults(latency=0.005, delay={"end-of-data": 0.6}, only={"end-of-data": (5,)})
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    assert world.arrived.index(world.sent[-1]) < 39  # the slow one came last of all


@BY
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "mid-data", "end-of-data", "after-accept"])
def test_one_breaks_amid_the_pass(world: World, by: str, stage: Stage) -> None:
    arrange(world, by).letters(45)
    at: Stage = "bdat" if by == "BDAT" and stage == "data" else stage
    world.smtp.faults = faults(by, drop=at, only={at: (14,)})
    done = world.poll()
    doubt = in_doubt(world)
    assert len(doubt) <= (8 if by == "BDAT" else 1)
    assert done.code == (1 if doubt else 0), done
    assert {uidl for uidl, state in world.statuses().items() if state == "held"} == set(doubt)
    counts = Counter(world.arrived)
    for number, content in enumerate(world.sent, 1):
        assert counts[content] == 1 or f"u{number}" in doubt
    world.recovers(repeated=len(doubt))


@pytest.mark.parametrize("by", ["DATA", "LMTP"])
def test_all_break_at_once(world: World, by: str) -> None:
    """As by a restart of the server: that counts as one break, and the pass goes on."""
    arrange(world, by).letters(60)
    world.smtp.faults = faults(by, drop="end-of-data", only={"end-of-data": range(20, 23)})
    done = world.poll()
    assert done.code == 1, done
    doubt = in_doubt(world)
    assert len(doubt) == 3
    assert set(world.left) == set(doubt)
    world.recovers(repeated=3)


@pytest.mark.parametrize("by", ["DATA", "LMTP"])
def test_a_server_that_breaks_when_pipelined(world: World, by: str) -> None:
    arrange(world, by).letters(20)
    world.smtp.faults = faults(by, breaks_when_pipelined="drop")
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    world.recovers()


@pytest.mark.parametrize("by", ["DATA", "BDAT"])
def test_sessions_that_take_seven_messages(world: World, by: str) -> None:
    arrange(world, by).letters(60)
    world.smtp.faults = faults(by, max_messages=7)
    done = world.poll()
    doubt = in_doubt(world)
    assert done.code == (1 if doubt else 0), done
    assert not doubt or by == "BDAT"
    assert max(used(world)) <= 16
    world.recovers(repeated=len(doubt))


@BY
def test_all_refused_alike_gives_nothing_up(world: World, by: str) -> None:
    arrange(world, by).letters(30)
    world.smtp.faults = faults(by, replies={"mail": b"550 5.7.1 relaying denied\r\n"})
    done = world.poll()
    assert done.code == 69, done
    assert world.kept("badmail") == []
    assert in_doubt(world) == []
    assert set(world.statuses().values()) <= {"held", "seen"}
    assert len(world.left) == 30
    world.heal()
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)


@BY
def test_the_server_goes_down_for_good(world: World, by: str) -> None:
    """What was not answered is in doubt, nothing else is; all arrives once the server is back."""
    arrange(world, by).letters(40)
    world.smtp.faults = faults(by, drop="end-of-data", only={"end-of-data": range(10, 999)})
    assert world.poll().code in (1, 75)
    doubt = in_doubt(world)
    assert len(world.smtp.delivered) == 9
    assert len(doubt) <= 3 * (8 if by == "BDAT" else 1) + 2  # those of the three at first, then of one after the other
    world.heal()
    assert world.poll().code == 0
    assert Counter(world.arrived) == Counter(world.sent)
    marked = [message for message in world.smtp.delivered if DUPLICATE in message.content]
    assert len(marked) == len(doubt)
    assert world.left == []


@BY
def test_held_mail_and_suspects(world: World, by: str) -> None:
    """Held mail goes through all of them; what has broken a session goes alone."""
    arrange(world, by).letters(20)
    world.mail(letter(99, b"poison\r\n"))
    world.smtp.faults = faults(by, replies={"rcpt": b"451 4.3.0 not now\r\n"})
    assert world.poll().code == 1
    assert len(world.kept("held")) == 21
    read = world.pop3.retrieved
    poison = {"end-of-data": lambda content: b"what?\r\n" if b"poison" in content else None}
    world.smtp.faults = faults(by, replies=poison)
    assert world.poll().code == 1
    assert "u21" in in_doubt(world)
    before = len(world.smtp.sessions)
    assert world.poll().code == 1
    suspect = world.smtp.sessions[before:]
    assert in_doubt(world) == ["u21"]
    assert len(suspect) == 1
    assert world.pop3.retrieved == read
    world.heal()
    world.poll().ended(0, "message u21: delivered again")
    assert Counter(world.arrived) == Counter(world.sent)


def test_what_is_kept_back_leaves_while_the_mailbox_is_slow(world: World) -> None:
    """No message waits in a session for a following one that is long in coming."""
    arrange(world).letters(9)
    seen: list[int] = []

    def slow(_: bytes) -> None:
        time.sleep(0.15)
        seen.append(len(world.smtp.delivered))

    world.pop3.faults = Pop3Faults(replies={"RETR": slow}, latency=0.01, announce_pipelining=False)
    world.poll().ended(0)
    assert Counter(world.arrived) == Counter(world.sent)
    assert max(position - count for position, count in enumerate(seen)) <= 2
    assert len(used(world)) <= 2
    world.recovers()


def test_spare_ones_are_left_before_the_server_hangs_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "IDLE", 0.3)
    arrange(world).letters(40)
    world.smtp.faults = SmtpFaults(latency=0.005)
    pause = lambda number: time.sleep(0.7) if number == b"21" else None  # noqa: E731
    world.pop3.faults = Pop3Faults(replies={"RETR": pause}, announce_pipelining=False)
    world.poll().ended(0)
    assert len(used(world)) > 3
    assert all("QUIT" in session.verbs for session in world.smtp.sessions)
    world.recovers()


@pytest.mark.skipif(not POSIX, reason="SIGKILL")
@pytest.mark.parametrize("by", ["DATA", "BDAT"])
def test_kills_amid_the_pass(world: World, by: str) -> None:
    """Nothing is lost, and what is repeated was in doubt: by DATA three at most a kill, each copy saying so."""
    arrange(world, by, 3, "max_in_flight = 2")
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    rng = random.Random(seed)
    kills = 0
    at_most = 3 * (2 if by == "BDAT" else 1)
    repeats = 0
    for _ in range(5):
        world.letters(25)
        world.smtp.faults = SmtpFaults(latency=0.01)
        marked = sum(DUPLICATE in message.content for message in world.smtp.delivered)
        target = len(world.smtp.delivered) + rng.randrange(1, 16)
        running = world.start()
        end = time.monotonic() + 20
        while len(world.smtp.delivered) < target and running.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        kills += running.returncode == -signal.SIGKILL
        lines = (world.state / "office.jsonl").read_text("utf-8").splitlines()
        last = {line["uidl"]: line["status"] for line in map(json.loads, lines[:-1]) if "status" in line}
        assert sum(status == "sending" for status in last.values()) <= at_most
        world.smtp.faults = SmtpFaults()
        world.poll()
        again = sum(DUPLICATE in message.content for message in world.smtp.delivered) - marked
        assert again <= at_most
        repeats += again
    world.poll().ended(0)
    assert kills  # how many come amid a transfer is luck
    counts = Counter(world.arrived)
    assert set(counts) == set(world.sent)
    assert sum(counts.values()) - len(world.sent) <= repeats
    assert world.left == []
    plain = Counter(content_of(one) for one in world.smtp.delivered if DUPLICATE not in one.content)
    assert max(plain.values()) == 1


def test_a_server_that_hangs_costs_its_time_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for an answer begins when it was asked for, not when the sessions before it were given up."""
    monkeypatch.setattr(data_transfer, "LEAST", 0.01)
    arrange(world, "DATA", 16, "max_in_flight = 1").letters(60)
    world.timeout = 0.5
    world.smtp.faults = faults("DATA", hang="end-of-data", only={"end-of-data": range(30, 999)})
    began = time.monotonic()
    assert world.poll().code == 75
    assert time.monotonic() - began < 6
    doubt = in_doubt(world)
    assert len(doubt) > 4
    world.recovers(repeated=len(doubt))
