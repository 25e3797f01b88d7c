"""Mail that goes round and round ends in badmail, and nothing else does."""

from __future__ import annotations

import json

import pytest

from poprep_cli.embedded.pop3 import Maildrop, Pop3Server
from tests.poll.world import DUPLICATE, PASSWORD, USER, SmtpFaults, World, letter

HOP = b"Received: from a.example by b.example with ESMTP id 1;\r\n\tMon, 3 Nov 2025 10:00:00 +0100\r\n"
OURS = "a mail loop: it has been through this connector before"


def come_back(world: World) -> bytes:
    """Put what was delivered last into the mailbox again, and return it."""
    content = world.smtp.delivered[-1].content
    world.mail(content)
    return content


def test_our_own_trace_of_this_connector_is_a_loop(world: World) -> None:
    world.letters(1)
    world.poll().ended(0)
    content = come_back(world)
    world.letters(1)
    world.poll().ended(1, f"message u2: badmail: {OURS} \\(.*\\.eml\\)")
    assert len(world.smtp.delivered) == 2  # the message after it has arrived
    (slip,) = world.kept("badmail")
    assert slip["content"] == content
    assert slip["why"] == OURS
    assert slip["forward_paths"] == []
    assert world.left == ["u2"]
    world.poll().ended(0)
    assert len(world.kept("badmail")) == 1


def test_further_hops_in_front_of_it_do_not_hide_it(world: World) -> None:
    world.letters(1)
    world.poll().ended(0)
    world.mail(HOP * 3 + b"Delivered-To: somebody@example.org\r\n" + world.smtp.delivered[0].content)
    world.poll().ended(1, OURS)


def test_a_copy_that_is_marked_as_a_possible_duplicate_is_a_loop_too(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(drop="after-accept", only={"after-accept": range(1, 2)})
    world.poll()
    world.heal()
    world.poll()
    assert DUPLICATE in world.smtp.delivered[-1].content
    come_back(world)
    world.poll().ended(1, OURS)


def test_two_installations_in_a_row_are_no_loop(world: World) -> None:
    """Even of the same name: the mark is made with a key of the installation."""
    world.letters(1)
    world.poll().ended(0)
    content = come_back(world)
    (world.state / "installation.key").unlink()
    world.poll().ended(0)
    assert world.arrived[1] == content


def test_another_connector_of_this_installation_is_no_loop(world: World) -> None:
    second = Pop3Server(Maildrop(), user=USER, password=PASSWORD)
    with second:
        world.more = world.tables("second", second)
        world.letters(1)
        world.poll("office").ended(0)
        content = world.smtp.delivered[0].content
        second.maildrop.add(content, b"v1")
        world.poll("second").ended(0)
        assert world.arrived[1] == content
        second.maildrop.add(world.smtp.delivered[1].content, b"v2")
        world.poll("second").ended(1, OURS)


def test_a_bounce_that_quotes_it_is_no_loop(world: World) -> None:
    world.letters(1)
    world.poll().ended(0)
    quoted = world.smtp.delivered[0].content
    world.mail(b"Subject: Undelivered mail\r\n\r\nThe message was:\r\n\r\n" + quoted)
    world.poll().ended(0)
    assert len(world.smtp.delivered) == 2


@pytest.mark.parametrize(("line", "most"), [("", 50), ("max_hops = 3", 3), ("max_hops = 1", 1)])
def test_too_many_hops_are_a_loop(world: World, line: str, most: int) -> None:
    world.more = f"[connector.office.delivery]\n{line}"
    world.mail(HOP * most + letter(1), HOP * (most + 1) + letter(2), letter(3))
    world.poll().ended(
        1,
        f"u2: badmail: a mail loop: it has {most + 1} Received fields, and delivery.max_hops is {most} ",
    )
    assert world.arrived == [world.sent[0], world.sent[2]]
    (slip,) = world.kept("badmail")
    assert slip["content"] == world.sent[1]


def test_a_loop_is_found_while_smtp_is_away(world: World) -> None:
    """What is downloaded before that is known goes to badmail at once: held mail is not looked at again."""
    world.mail(HOP * 51 + letter(1), letter(2))
    world.smtp.stop()
    done = world.poll("--json")
    assert done.code == 75
    outcomes = {note["uidl"]: note["outcome"] for note in json.loads(done.out)["connectors"][0]["messages"]}
    assert outcomes == {"u1": "badmail", "u2": "held"}
    assert [slip["content"] for slip in world.kept("badmail")] == world.sent[:1]
    assert [slip["content"] for slip in world.kept("held")] == world.sent[1:]


def test_the_trace_of_held_mail_is_not_taken_for_a_loop(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"end-of-data": b"451 4.3.0 later\r\n"})
    world.poll()
    world.poll()
    world.heal()
    world.poll().ended(0)
    assert world.arrived == world.sent


@pytest.mark.parametrize("send_to", [("bcc@corp.example",), ("to@corp.example", "bcc@corp.example")])
def test_the_trace_names_a_recipient_only_to_himself(world: World, send_to: tuple[str, ...]) -> None:
    world.send_to = send_to
    world.letters(1)
    world.poll().ended(0)
    (message,) = world.smtp.delivered
    assert (b"for <bcc@corp.example>" in message.content) is (len(send_to) == 1)
    assert (b"bcc@" in message.content) is (len(send_to) == 1)
    for secret in (PASSWORD, str(world.folder), USER + "@127", "/home", "/tmp"):
        assert secret.encode() not in message.content
