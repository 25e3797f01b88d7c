"""What becomes of mail that is refused for good or for too long, and whose fault it is: the message's or the server's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from poprep_cli.embedded.smtp_faults import Stage
from tests.poll.outcome import Done
from tests.poll.world import SmtpFaults, World, closed_port, letter

A, B, C = "a@corp.example", "b@corp.example", "c@corp.example"
SPAM = b"554 5.7.1 spam\r\n"
LATER = b"451 4.3.0 scanner is down\r\n"
GREYLISTED = b"450 4.2.1 greylisted\r\n"
Pass = Callable[..., Done]


def refuse(word: bytes, reply: bytes = SPAM) -> SmtpFaults:
    """Refuse the messages with this word in them."""
    return SmtpFaults(replies={"end-of-data": lambda content: reply if word in content else None})


def settings(world: World, *lines: str) -> None:
    """Write these lines into the delivery table."""
    world.more = "\n".join(("[connector.office.delivery]", *lines))
    world.write()


# ---------------------------------------------------------------------- on_reject


def test_refused_mail_goes_to_badmail(world: World) -> None:
    settings(world, 'on_reject = "badmail"')
    world.mail(letter(1), letter(2, b"spam\r\n"), letter(3))
    world.smtp.faults = refuse(b"spam")
    world.poll().ended(1, "message u2: badmail: .* 554 5.7.1 spam")
    (slip,) = world.kept("badmail")
    assert slip["content"] == world.sent[1]
    assert world.left == ["u2"]
    world.recovers(badmail=1)


def test_refused_mail_is_left_on_the_server(world: World) -> None:
    settings(world, 'on_reject = "keep"')
    world.mail(letter(1), letter(2, b"spam\r\n"), letter(3))
    world.smtp.faults = refuse(b"spam")
    world.poll().ended(1, "message u2: left on the server: not to be tried again .*554 5.7.1 spam")
    assert (world.kept("held"), world.kept("badmail")) == ([], [])
    assert world.left == ["u2"]
    assert world.statuses()["u2"] == "ignored"
    world.heal()
    world.poll().ended(0)
    assert world.left == ["u2"]
    assert len(world.arrived) == 2
    assert world.pop3.retrieved == 3


def test_refused_mail_is_discarded(world: World) -> None:
    settings(world, 'on_reject = "discard"')
    world.mail(letter(1), letter(2, b"spam\r\n"), letter(3))
    world.smtp.faults = refuse(b"spam")
    world.poll().ended(0)
    assert (world.kept("held"), world.kept("badmail")) == ([], [])
    assert world.left == []
    assert len(world.arrived) == 2
    world.poll().ended(0)


@pytest.mark.parametrize("what", ["badmail", "keep", "discard"])
def test_one_recipient_of_three_is_refused(world: World, what: str) -> None:
    settings(world, f'on_reject = "{what}"')
    world.config.unlink()
    world.send_to = (A, B, C)
    world.letters(1)
    world.smtp.faults = SmtpFaults(recipients={B.encode(): b"550 5.1.1 nobody\r\n"})
    assert world.poll().code == (0 if what == "discard" else 1)
    assert [message.forward_paths for message in world.smtp.delivered] == [(A.encode(), C.encode())]
    assert world.kept("held") == []
    assert [slip["forward_paths"] for slip in world.kept("badmail")] == ([[B]] if what == "badmail" else [])
    assert world.left == ([] if what == "discard" else ["u1"])
    world.heal()
    world.poll().ended(0)
    assert len(world.smtp.delivered) == 1


@pytest.mark.parametrize("what", ["keep", "discard"])
def test_the_servers_fault_is_no_rejection(world: World, what: str) -> None:
    settings(world, f'on_reject = "{what}"')
    world.letters(4)
    world.smtp.faults = SmtpFaults(replies={"mail": b"550 5.7.1 relaying denied\r\n"})
    assert world.poll().code == 69
    assert len(world.left) == 4
    assert set(world.statuses().values()) == {"held"}
    world.recovers()


# ---------------------------------------------------------------------- retry_days


@pytest.fixture
def at(world: World, monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Run a pass at this time of November."""
    monkeypatch.setenv("POPREP_TESTING", "1")

    def run(moment: str) -> Done:
        monkeypatch.setenv("POPREP_TEST_CLOCK", f"2026-11-{moment}:00Z")
        return world.poll()

    return run


def test_mail_deferred_for_too_long_is_given_up(world: World, at: Pass) -> None:
    settings(world, "retry_days = 2")
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"rcpt": GREYLISTED})
    at("01T09:00").ended(1, "message u1: held: office@corp.example at rcpt: 450 4.2.1 greylisted")
    at("03T09:00").ended(1, "message u1: held")
    at("03T09:01").ended(1, r"message u1: badmail: deferred for more than 2 days .*450 4.2.1 greylisted")
    (slip,) = world.kept("badmail")
    assert slip["content"] == world.sent[0]
    assert len(slip["refusals"]) == 3
    assert world.left == ["u1"]
    assert world.pop3.retrieved == 1
    world.recovers(badmail=1)


def test_no_days_are_the_next_pass(world: World, at: Pass) -> None:
    settings(world, "retry_days = 0")
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"rcpt": GREYLISTED})
    at("01T09:00").ended(1, "message u1: held")
    at("01T09:01").ended(1, "message u1: badmail")
    world.recovers(badmail=1)


OUTAGES = {
    "greeting-421": SmtpFaults(replies={"greeting": b"421 4.3.2 closing down\r\n"}),
    "greeting-450": SmtpFaults(replies={"greeting": b"450 4.3.2 not now\r\n"}),
    "greeting-554": SmtpFaults(replies={"greeting": b"554 5.3.2 no service\r\n"}),
    "mail-421": SmtpFaults(replies={"mail": b"421 4.3.2 closing down\r\n"}),
    "rcpt-421": SmtpFaults(replies={"rcpt": b"421 4.3.2 closing down\r\n"}),
    "mail": SmtpFaults(replies={"mail": b"452 4.3.1 no room\r\n"}),
    "end-of-data": SmtpFaults(replies={"end-of-data": LATER}),
    "line": SmtpFaults(drop="mail"),
}


@pytest.mark.parametrize("outage", OUTAGES.values(), ids=list(OUTAGES))
@pytest.mark.parametrize("count", [1, 4])
def test_an_outage_ages_nothing(world: World, at: Pass, outage: SmtpFaults, count: int) -> None:
    settings(world, "retry_days = 2")
    world.letters(count)
    world.smtp.faults = outage
    for day in range(1, 20, 3):
        done = at(f"{day:02}T09:00")
        assert done.code in (1, 69, 75), done
        assert world.kept("badmail") == []
    world.smtp.faults = SmtpFaults(replies={"rcpt": GREYLISTED})  # now it is their own
    assert at("20T09:00").code == 1
    assert at("22T09:00").code == 1
    assert world.kept("badmail") == []
    assert at("22T09:01").code == 1
    assert len(world.kept("badmail")) == count
    world.recovers(badmail=count)


@pytest.mark.parametrize("outage", [*OUTAGES.values(), None], ids=[*OUTAGES, "refused-connection"])
def test_an_outage_in_between_does_not_count(world: World, at: Pass, outage: SmtpFaults | None) -> None:
    settings(world, "retry_days = 2")
    own = SmtpFaults(replies={"rcpt": GREYLISTED})
    world.letters(1)
    world.smtp.faults = own
    assert at("01T09:00").code == 1
    assert at("02T09:00").code == 1  # a day
    for day in ("02T10:00", "05T10:00", "09T10:00"):  # and an hour
        if outage is None:
            text = world.config.read_text("utf-8")
            world.config.write_text(text.replace(world.smtp.address, f"127.0.0.1:{closed_port()}"), "utf-8")
            assert at(day).code == 75
            world.config.write_text(text, "utf-8")
        else:
            world.smtp.faults = outage
            assert at(day).code in (1, 69, 75)
    world.smtp.faults = own
    assert at("09T12:00").code == 1
    assert at("10T10:00").code == 1
    assert world.kept("badmail") == []
    assert at("10T11:01").code == 1  # 25 hours and 23 hours
    assert len(world.kept("badmail")) == 1


def test_a_message_of_its_own_among_others_ages_wherever_it_comes(world: World, at: Pass) -> None:
    """What is deferred before anything is accepted may be the server's fault, until something is accepted."""
    settings(world, "retry_days = 2")
    world.mail(letter(1, b"spam\r\n"))
    world.smtp.faults = refuse(b"spam", LATER)
    for day in ("01", "02", "03"):
        world.letters(1)
        at(f"{day}T09:00").ended(1, "message u1: held: .*451 4.3.0 scanner is down")
    world.letters(1)
    at("03T09:01").ended(1, "message u1: badmail: deferred for more than 2 days")
    assert world.left == ["u1"]
    assert world.arrived == world.sent[1:]
    world.recovers(badmail=1)


def test_badmail_that_is_retried_has_a_new_age(world: World, at: Pass) -> None:
    settings(world, "retry_days = 2")
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"rcpt": GREYLISTED})
    at("01T09:00").ended(1, "held")
    at("04T09:00").ended(1, "badmail")
    world.command("badmail", "retry", "--all")
    at("05T09:00").ended(1, "message u1: held")
    assert world.kept("badmail") == []


# ---------------------------------------------------------------------- whose fault it is


def test_three_refused_alike_are_no_badmail_until_new_mail_is_accepted(world: World) -> None:
    world.mail(*(letter(number, b"spam\r\n") for number in (1, 2, 3)))
    world.smtp.faults = refuse(b"spam")
    for _ in range(3):
        done = world.poll()
        assert done.code == 69, done
        assert "refuses every message alike" in done.sentences[0]
        assert [slip["content"] for slip in world.kept("held")] == world.sent
        assert world.kept("badmail") == []
        assert world.pop3.retrieved == 3
    world.letters(1)
    world.poll().ended(1, "message u1: badmail", "message u2: badmail", "message u3: badmail")
    assert world.arrived == world.sent[3:]
    assert [slip["content"] for slip in world.kept("badmail")] == world.sent[:3]
    assert world.left == ["u1", "u2", "u3"]
    world.recovers(badmail=3)


def test_new_mail_is_tried_before_what_was_refused(world: World) -> None:
    world.letters(3)
    world.smtp.faults = SmtpFaults(replies={"end-of-data": SPAM})
    assert world.poll().code == 69
    world.letters(2)
    world.heal()
    world.poll().ended(0)
    assert world.arrived == [*world.sent[3:], *world.sent[:3]]
    assert world.left == []


@pytest.mark.parametrize("count", [1, 2])
def test_few_refusals_and_a_server_that_goes_away(world: World, count: int) -> None:
    """Without an acceptance nobody knows whose fault it is; when the session ends in trouble nothing is given up."""
    world.smtp.chunking = False
    world.mail(*(letter(number, b"spam\r\n") for number in range(count)))
    world.letters(6)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": lambda content: SPAM if b"spam" in content else None},
        drop="mail",
        only={"mail": range(count + 1, 999)},
    )
    done = world.poll()
    assert done.code == 75, done
    assert world.kept("badmail") == []
    assert len(world.left) == count + 6
    world.recovers()


@pytest.mark.parametrize("limit", ["1", "8"])
def test_too_large_is_each_messages_own_matter(world: World, limit: str) -> None:
    """The server's limit was announced, so the refusals alike say nothing about the server."""
    world.smtp_lines = f"max_in_flight = {limit}"
    world.smtp.size_limit = 10_000
    large = b"a line of a large message\r\n" * 1000
    world.mail(*(letter(number, large) for number in range(4)))
    world.poll().ended(1, *(f"message u{number}: badmail: .* at size: 552 5.3.4" for number in range(1, 5)))
    assert len(world.kept("badmail")) == 4
    assert all("MAIL" not in session.verbs for session in world.smtp.sessions)
    world.letters(2)
    world.poll().ended(0)
    assert world.arrived == world.sent[4:]
    world.recovers(badmail=4)


@pytest.mark.parametrize("stage", ["mail", "end-of-data"])
def test_a_server_that_ends_each_session_is_left_in_peace(world: World, stage: Stage) -> None:
    world.letters(20)
    world.smtp.faults = SmtpFaults(replies={stage: b"421 4.3.2 closing down\r\n"})
    done = world.poll()
    assert done.code == 75, done
    assert sum("MAIL" in session.verbs for session in world.smtp.sessions) == 3
    assert len(world.left) == 20
    assert world.kept("badmail") == []
    world.recovers()


@pytest.mark.parametrize("chunking", [True, False])
def test_poison_does_not_stop_others_however_much_there_is(world: World, chunking: bool) -> None:
    world.smtp.chunking = chunking
    world.mail(*(letter(number, b"poison\r\n") for number in range(4)))
    world.letters(5)
    world.smtp.faults = refuse(b"poison", b"what?\r\n")
    for _ in range(4):
        world.letters(2)
        done = world.poll()
        assert done.code in (1, 75), done
    good = [content for content in world.sent if b"poison" not in content]
    assert Counter(world.arrived) == Counter(good)
    assert world.left == ["u1", "u2", "u3", "u4"]
    assert world.kept("badmail") == []
    world.recovers(repeated=4)


def test_what_was_refused_once_is_not_kept_waiting_by_poison(world: World) -> None:
    """Two messages break the session whenever they are tried; those held beside them get their turn before them."""
    world.mail(letter(1, b"poison\r\n"), letter(2, b"poison\r\n"))
    world.smtp.faults = refuse(b"poison", b"what?\r\n")
    world.poll().ended(1, "message u1: held: in doubt", "message u2: held: in doubt")
    world.letters(3)
    world.smtp.faults = SmtpFaults(replies={"end-of-data": SPAM})
    assert world.poll().code == 69
    world.smtp.faults = refuse(b"poison", b"what?\r\n")
    done = world.poll()
    assert done.code == 1, done
    assert world.arrived == world.sent[2:]
    assert world.left == ["u1", "u2"]
    world.recovers(repeated=2)


# ---------------------------------------------------------------------- several hosts


def hosts(world: World, *addresses: str) -> None:
    world.write()
    text = world.config.read_text("utf-8")
    listed = ", ".join(f'"{address}"' for address in addresses)
    world.config.write_text(text.replace(f'host = "{world.smtp.address}"', f"host = [{listed}]"), "utf-8")


@pytest.mark.parametrize("down", ["refused", "drop", "hang", "421", "450"])
def test_the_second_host_takes_what_the_first_can_not(world: World, down: str) -> None:
    from poprep_cli.embedded.smtp import SmtpServer

    world.timeout = 0.3
    world.letters(2)
    faults = {
        "drop": SmtpFaults(drop="greeting"),
        "hang": SmtpFaults(hang="greeting"),
        "421": SmtpFaults(replies={"greeting": b"421 4.3.2 closing down\r\n"}),
        "450": SmtpFaults(replies={"ehlo": b"450 4.3.2 not now\r\n"}),
    }
    with SmtpServer(faults=faults.get(down)) as first:
        hosts(world, f"127.0.0.1:{closed_port()}" if down == "refused" else first.address, world.smtp.address)
        world.poll().ended(0)
        assert first.delivered == []
    assert world.arrived == world.sent
    assert world.left == []


def test_no_second_host_for_what_the_first_refuses_for_good(world: World) -> None:
    """That is a mistake in the configuration, which is not to be hidden by a second host."""
    from poprep_cli.embedded.smtp import SmtpServer

    world.letters(2)
    with SmtpServer(faults=SmtpFaults(replies={"greeting": b"554 5.7.1 no mail from you\r\n"})) as first:
        hosts(world, first.address, world.smtp.address)
        done = world.poll()
        assert done.code == 69, done
        assert f"{first.address} refuses the connection: 554 5.7.1 no mail from you" in done.sentences[0]
    assert world.smtp.sessions == []
    assert world.left == ["u1", "u2"]
    assert len(world.kept("held")) == 2


def test_both_hosts_are_down(world: World) -> None:
    world.letters(2)
    world.smtp.faults = SmtpFaults(replies={"greeting": b"421 4.3.2 closing down\r\n"})
    hosts(world, world.smtp.address, f"127.0.0.1:{closed_port()}")
    done = world.poll()
    assert done.code == 75, done
    assert "421 4.3.2 closing down" in done.sentences[0]
    world.recovers()


@pytest.mark.parametrize("count", [1, 4])
def test_a_server_that_wants_a_login_first_is_not_the_messages_fault(world: World, count: int) -> None:
    world.letters(count)
    world.smtp.faults = SmtpFaults(replies={"mail": b"530 5.7.0 authentication required\r\n"})
    done = world.poll()
    assert done.code == 69
    assert "wants a login (smtp.user, smtp.password)" in done.err
    assert world.kept("badmail") == []
    assert len(world.left) == count
    world.recovers()


@pytest.mark.usefixtures("by_data")
def test_too_large_by_the_servers_own_count_is_the_messages_fault(world: World) -> None:
    world.letters(4)
    world.smtp.faults = SmtpFaults(
        replies={"end-of-data": b"552 5.3.4 message too large\r\n"}, only={"end-of-data": (1, 2, 3)}
    )
    done = world.poll()
    assert done.code == 1
    assert len(world.kept("badmail")) == 3
    assert len(world.arrived) == 1
