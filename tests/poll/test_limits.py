"""Limits of a pass: each is kept, and none of them, nor all together, keeps mail from coming through in the end."""

from __future__ import annotations

import time

import pytest

from tests.poll.world import Pop3Faults, SmtpFaults, World, letter


def limits(world: World, *lines: str, **more: int) -> None:
    world.more = "\n".join(("[connector.office.limits]", *lines, *(f"{key} = {value}" for key, value in more.items())))
    world.write()


def passes(world: World, most: int) -> list[int]:
    """Poll until the mailbox is empty; return how many messages arrived in each pass, which is never none."""
    counts = []
    while world.left:
        before = len(world.smtp.delivered)
        world.poll().ended(0)
        counts.append(len(world.smtp.delivered) - before)
        assert counts[-1] > 0
        assert len(counts) <= most
    assert world.arrived == world.sent
    return counts


@pytest.mark.parametrize("pipelining", [True, False])
def test_so_many_messages_in_a_pass(world: World, pipelining: bool) -> None:
    world.pop3_lines = "" if pipelining else 'pipelining = "off"'
    world.letters(10)
    limits(world, max_messages=4)
    assert passes(world, 3) == [4, 4, 2]
    assert world.pop3.retrieved == 10


def test_so_many_octets_in_a_pass(world: World) -> None:
    world.mail(*(letter(number, b"a line of text\r\n" * 100) for number in range(9)))
    limits(world, max_octets=5 * len(world.sent[0]) + 10)
    assert passes(world, 2) == [5, 4]


def test_one_message_of_more_octets_than_a_pass_may_have(world: World) -> None:
    world.mail(letter(1), letter(2, b"a line of text\r\n" * 1000), letter(3))
    limits(world, max_octets=1000)
    assert passes(world, 3) == [1, 1, 1]


def test_so_many_seconds_with_a_slow_smtp_server(world: World) -> None:
    world.smtp.chunking = False
    world.letters(12)
    world.smtp.faults = SmtpFaults(delay={"end-of-data": 0.2})
    limits(world, max_seconds=1)
    counts = []
    while world.left:
        before, began = len(world.smtp.delivered), time.monotonic()
        done = world.poll()
        assert time.monotonic() - began < 3
        assert done.code == 0, done
        counts.append(len(world.smtp.delivered) - before)
        assert counts[-1] > 0
        assert len(counts) < 12
        if world.kept("held"):
            assert "limits.max_seconds is over" in done.err
    assert len(counts) > 1
    assert world.arrived == world.sent
    assert world.kept("held") == []
    assert world.pop3.retrieved == 12


def test_so_many_seconds_with_a_slow_pop3_server(world: World) -> None:
    world.letters(30)
    world.pop3_lines = 'pipelining = "off"'
    world.pop3.faults = Pop3Faults(latency=0.1)
    limits(world, max_seconds=2)
    counts = passes(world, 20)
    assert len(counts) > 1
    assert world.pop3.retrieved == 30


def test_a_login_that_takes_all_the_time(world: World) -> None:
    """At least one message comes with each pass."""
    world.letters(3)
    world.pop3.faults = Pop3Faults(greeting_delay=1.1)
    world.timeout = 3
    limits(world, max_seconds=1)
    assert passes(world, 3) == [1, 1, 1]


def test_too_large_is_told_once_and_fetched_when_the_limit_allows_it(world: World) -> None:
    world.mail(letter(1), letter(2, b"a line of text\r\n" * 1000), letter(3))
    limits(world, max_message_size=5000)
    world.poll().ended(1, r"message u2: left on the server: .* more than limits.max_message_size")
    assert world.left == ["u2"]
    assert world.statuses()["u2"] == "oversize"
    for _ in range(2):
        world.poll().ended(0)
    assert world.pop3.retrieved == 2
    limits(world, max_message_size=50_000)
    world.poll().ended(0)
    assert world.pop3.retrieved == 3
    assert sorted(world.arrived) == sorted(world.sent)
    world.recovers()


def test_too_large_ones_do_not_use_up_the_limit(world: World) -> None:
    large = b"a line of text\r\n" * 1000
    world.mail(letter(1, large), letter(2, large), letter(3), letter(4, large), letter(5))
    limits(world, max_message_size=5000, max_messages=1)
    assert world.poll().code == 1
    world.poll().ended(0)
    assert world.arrived == [world.sent[2], world.sent[4]]
    assert world.left == ["u1", "u2", "u4"]


def test_all_limits_together_and_a_server_that_defers(world: World) -> None:
    world.smtp.chunking = False
    world.mail(*(letter(number, b"a line of text\r\n" * (1 + number % 5 * 100)) for number in range(25)))
    limits(world, max_messages=4, max_octets=10_000, max_seconds=1, max_message_size=20_000, max_held=15_000)
    world.smtp.faults = SmtpFaults(
        delay={"end-of-data": 0.05},
        replies={"rcpt": b"450 4.2.1 greylisted\r\n"},
        only={"rcpt": range(1, 99, 3)},
    )
    count = 0
    while world.left or world.kept("held"):
        done = world.poll()
        assert done.code in (0, 1), done
        count += 1
        assert count < 25
    assert sorted(world.arrived) == sorted(world.sent)
    assert world.pop3.retrieved == 25
    assert world.kept("badmail") == []


def test_held_mail_is_bound_by_the_time_too(world: World) -> None:
    world.smtp.chunking = False
    world.letters(8)
    limits(world, max_seconds=1)
    world.smtp.faults = SmtpFaults(replies={"greeting": b"421 4.3.2 closing down\r\n"})
    assert world.poll().code == 75
    assert len(world.kept("held")) == 8
    world.smtp.faults = SmtpFaults(delay={"end-of-data": 0.3})
    count = 0
    while world.kept("held"):
        began, before = time.monotonic(), len(world.smtp.delivered)
        assert world.poll().code == 0
        assert time.monotonic() - began < 3
        assert len(world.smtp.delivered) > before
        count += 1
        assert count < 8
    assert count > 1
    assert world.arrived == world.sent
    world.recovers()
