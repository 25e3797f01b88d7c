"""SMTP is away for long: what was read waits in the spool, and then each message arrives once, in order, read once."""

from __future__ import annotations

import pytest

from tests.poll.world import Pop3Faults, SmtpFaults, World, closed_port, letter

DOWN = {
    "421": SmtpFaults(replies={"greeting": b"421 4.3.2 closing down\r\n"}),
    "drop": SmtpFaults(drop="greeting"),
    "554": SmtpFaults(replies={"greeting": b"554 5.3.2 no service\r\n"}),
    "deferring": SmtpFaults(replies={"end-of-data": b"452 4.3.1 no room\r\n"}),
}


@pytest.mark.parametrize("hide_read", [False, True], ids=["", "hide-read"])
@pytest.mark.parametrize("down", [*DOWN, "refused-connection"])
def test_twenty_passes_and_three_hundred_messages(world: World, down: str, hide_read: bool) -> None:
    world.pop3.faults = Pop3Faults(hide_read=hide_read)
    world.smtp.faults = DOWN.get(down, SmtpFaults())
    world.write()
    text = world.config.read_text("utf-8")
    if down not in DOWN:
        world.config.write_text(text.replace(world.smtp.address, f"127.0.0.1:{closed_port()}"), "utf-8")
    for _ in range(20):
        world.letters(15)
        done = world.poll()
        assert done.code in ((1,) if down == "deferring" else (69, 75)), done
        assert len(done.sentences) <= 30
    read = world.pop3.retrieved
    assert len(world.kept("held")) == read
    assert read == 300 if down == "deferring" else 0 < read <= 8
    assert world.kept("badmail") == []
    assert world.smtp.delivered == []
    world.config.write_text(text, "utf-8")
    world.smtp.faults = SmtpFaults()
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.pop3.retrieved == 300
    assert world.kept("held") == []
    if hide_read:  # what the server shows no more can't be deleted, and is forgotten in time
        assert len(world.left) == read
    else:
        assert world.left == []
    before = len(world.smtp.delivered)
    world.poll().ended(0)
    assert len(world.smtp.delivered) == before
    assert world.pop3.retrieved == 300


def test_a_full_spool_stops_the_download(world: World) -> None:
    body = b"a line of a message of ten thousand octets\r\n" * 230
    world.more = "[connector.office.limits]\nmax_held = 35_000"
    for number in range(10):
        world.mail(letter(number, body))
    world.smtp.faults = SmtpFaults(replies={"greeting": b"421 4.3.2 closing down\r\n"})
    assert world.poll().code == 75
    read = world.pop3.retrieved
    assert read == 8
    world.smtp.faults = SmtpFaults(replies={"rcpt": b"450 4.2.1 greylisted\r\n"})  # it is there, but takes nothing
    for _ in range(3):
        done = world.poll()
        assert done.code == 1, done
        assert "the spool is full (limits.max_held): nothing more is downloaded" in done.err
        assert world.pop3.retrieved == read
    world.heal()
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.pop3.retrieved == 10
    world.recovers()


def test_the_spool_fills_during_a_pass(world: World) -> None:
    """It is not exceeded by more than what is on its way between the two servers."""
    body = b"a line of a message of a hundred thousand octets\r\n" * 2000
    world.more = "[connector.office.limits]\nmax_held = 1_000_000"
    for number in range(300):
        world.mail(letter(number, body))
    world.smtp.faults = SmtpFaults(replies={"rcpt": b"450 4.2.1 greylisted\r\n"}, latency=0.005)
    done = world.poll()
    assert done.code == 1, done
    assert "the spool is full (limits.max_held)" in done.err
    read = world.pop3.retrieved
    assert 10 <= read < 250  # 8 MiB may be on their way, and what was asked for
    assert len(world.kept("held")) == read
    assert world.poll().code == 1
    assert world.pop3.retrieved == read
    world.recovers()
    assert world.arrived == world.sent
    assert world.pop3.retrieved == 300


def test_mail_is_held_in_the_order_of_its_arrival_whatever_ends_the_pass(world: World) -> None:
    world.letters(40)
    world.smtp.faults = SmtpFaults(drop="mail", only={"mail": range(21, 9999)}, max_messages=None)
    assert world.poll().code == 75
    arrived = len(world.arrived)
    assert world.arrived == world.sent[:arrived]
    held = [slip["content"] for slip in world.kept("held")]
    assert sorted(held) == sorted(world.sent[arrived : arrived + len(held)])
    world.heal()
    assert world.poll().code == 0
    assert sorted(world.arrived) == sorted(world.sent)
    assert world.left == []
    assert world.pop3.retrieved == 40
