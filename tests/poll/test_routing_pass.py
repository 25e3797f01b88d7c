"""Routing through whole passes: who gets a message, what becomes of one that is for nobody, and on whose behalf it goes."""

from __future__ import annotations

import pytest

from poprep_cli.engine import srs
from tests.poll.outcome import Done
from tests.poll.world import SmtpFaults, World, letter

SECRET = "a-secret-for-rewriting"


def rules(world: World, *lines: str) -> None:
    """Write the configuration with these lines in the routing table; `send_to` is as the world has it, unless it is named."""
    world.write()
    text = world.config.read_text("utf-8")
    head, _, tail = text.partition("[connector.office.routing]\n")
    send_to, _, rest = tail.partition("\n")
    if any(line.startswith("send_to") for line in lines):
        send_to = ""
    table = "\n".join(("[connector.office.routing]", send_to, *lines, rest))
    world.config.write_text(head + table, "utf-8")


def mail(*fields: str, body: str = "Hello.") -> bytes:
    """Return a message with these fields."""
    lines = ("From: Ada <ada@example.org>", "Date: Mon, 2 Nov 2026 09:00:00 +0000", *fields, "", body, "")
    return "\r\n".join(lines).encode()


def paths(world: World) -> list[tuple[bytes, ...]]:
    return [message.forward_paths for message in world.smtp.delivered]


def test_the_domain_is_exchanged(world: World) -> None:
    world.mail(mail("Message-ID: <1@x>", "To: Ada <Ada+lists@Example.NET>, charles@elsewhere.example"))
    rules(world, 'source_domain = "example.net"', 'target_domain = "corp.example"')
    world.poll().ended(0)
    assert paths(world) == [(b"Ada+lists@corp.example",)]
    assert b"for <Ada+lists@corp.example>;" in world.smtp.delivered[0].content
    assert world.left == []


def test_one_copy_for_each_recipient(world: World) -> None:
    world.mail(
        mail("Message-ID: <1@x>", "To: ada@example.net, bob@example.net", "Cc: ADA@example.net, Bob <bob@EXAMPLE.net>")
    )
    rules(world, 'source_domain = "example.net"', 'target_domain = "corp.example"')
    world.poll().ended(0)
    assert paths(world) == [(b"ada@corp.example", b"bob@corp.example")]
    assert b"\tfor <" not in world.smtp.delivered[0].content.partition(b"From:")[0]


def test_several_in_send_to_are_not_named_to_each_other(world: World) -> None:
    world.send_to = ("ada@corp.example", "bob@corp.example")
    world.letters(1)
    world.poll().ended(0)
    assert paths(world) == [(b"ada@corp.example", b"bob@corp.example")]
    trace = world.smtp.delivered[0].content.partition(b"Return-Path:")[0]
    assert b"for <" not in trace
    assert b"corp.example" not in trace


def test_only_the_named_headers_count(world: World) -> None:
    world.mail(mail("Message-ID: <1@x>", "X-For: ada@example.net", "To: bob@example.net"))
    rules(world, 'source_domain = "example.net"', 'headers = ["X-For"]')
    world.poll().ended(0)
    assert paths(world) == [(b"ada@example.net",)]


@pytest.mark.parametrize(("number", "path"), [(1, b"provider@corp.example"), (2, b"forged@corp.example")])
def test_only_the_trusted_header_counts(world: World, number: int, path: bytes) -> None:
    world.mail(
        mail(
            "Delivered-To: provider@example.net",
            "Message-ID: <1@x>",
            "Delivered-To: forged@example.net",
            "To: victim@example.net",
        )
    )
    rules(
        world,
        'source_domain = "example.net"',
        'target_domain = "corp.example"',
        f'trusted_header = "Delivered-To:{number}"',
    )
    world.poll().ended(0)
    assert paths(world) == [(path,)]


def test_a_prefix_is_taken_off(world: World) -> None:
    world.mail(mail("Delivered-To: mbox123-ada@example.net", "Message-ID: <1@x>"))
    rules(world, 'source_domain = "example.net"', 'prefix = "mbox123-"')
    world.poll().ended(0)
    assert paths(world) == [(b"ada@example.net",)]


NOBODY = mail("Message-ID: <1@x>", "To: charles@elsewhere.example")


def no_match(world: World, what: str) -> Done:
    world.mail(NOBODY)
    rules(world, 'source_domain = "example.net"', 'target_domain = "corp.example"', f'no_match = "{what}"')
    return world.poll()


def test_who_matches_nobody_goes_to_send_to(world: World) -> None:
    no_match(world, "send_to").ended(0)
    assert paths(world) == [(b"office@corp.example",)]


def test_who_matches_nobody_goes_to_badmail(world: World) -> None:
    no_match(world, "badmail").ended(1, "message u1: badmail: no recipient was found: no recipient within example.net")
    assert world.smtp.delivered == []
    (slip,) = world.kept("badmail")
    assert slip["content"] == NOBODY
    assert slip["forward_paths"] == []
    assert world.statuses() == {"u1": "badmail"}
    assert world.left == ["u1"]
    world.poll().ended(0)
    assert world.pop3.retrieved == 1


def test_who_matches_nobody_is_discarded(world: World) -> None:
    no_match(world, "discard").ended(0)
    assert world.smtp.delivered == []
    assert (world.kept("held"), world.kept("badmail")) == ([], [])
    assert world.left == []  # by the user's own rule it is done with, and leave_copy is false
    assert world.statuses() == {"u1": "deleted"}


def test_what_is_held_for_want_of_a_recipient_never_ages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_TESTING", "1")
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2026-11-01T09:00:00Z")
    no_match(world, "hold").ended(1, "message u1: held: no recipient was found")
    monkeypatch.setenv("POPREP_TEST_CLOCK", "2027-11-01T09:00:00Z")
    for _ in range(2):
        world.poll().ended(0)  # told once
    assert [slip["content"] for slip in world.kept("held")] == [NOBODY]
    assert world.kept("badmail") == []
    assert world.smtp.delivered == []
    assert world.left == ["u1"]
    assert world.statuses() == {"u1": "held"}
    assert all("MAIL" not in session.verbs for session in world.smtp.sessions)

    rules(world, 'source_domain = "elsewhere.example"', 'target_domain = "corp.example"', 'no_match = "hold"')
    world.poll().ended(0)
    assert paths(world) == [(b"charles@corp.example",)]
    assert world.arrived == [NOBODY]
    assert world.kept("held") == []
    assert world.left == []
    assert world.pop3.retrieved == 1


@pytest.mark.parametrize(("what", "store"), [("badmail", "badmail"), ("discard", None), ("send_to", None)])
def test_mended_rules_decide_anew(world: World, what: str, store: str | None) -> None:
    assert no_match(world, "hold").code == 1
    rules(world, 'source_domain = "example.net"', f'no_match = "{what}"')
    assert world.poll().code == (1 if store else 0)
    assert world.kept("held") == []
    assert len(world.kept("badmail")) == (store == "badmail")
    assert len(world.smtp.delivered) == (what == "send_to")
    assert world.left == (["u1"] if store else [])


def test_newly_routed_mail_that_is_deferred_keeps_its_recipients(world: World) -> None:
    assert no_match(world, "hold").code == 1
    rules(world, 'source_domain = "elsewhere.example"')
    world.smtp.faults = SmtpFaults(replies={"rcpt": b"450 4.2.1 greylisted\r\n"})
    world.poll().ended(1, "message u1: held: charles@elsewhere.example at rcpt: 450")
    world.heal()
    world.poll().ended(0)
    assert paths(world) == [(b"charles@elsewhere.example",)]
    assert world.left == []


# ---------------------------------------------------------------------- on whose behalf


@pytest.mark.parametrize(
    ("sender", "reverse_path"),
    [("keep", b"ada@example.net"), ("null", b""), ("relay@corp.example", b"relay@corp.example")],
)
def test_the_sender(world: World, sender: str, reverse_path: bytes) -> None:
    world.letters(1)
    rules(world, f'sender = "{sender}"')
    world.poll().ended(0)
    assert [message.reverse_path for message in world.smtp.delivered] == [reverse_path]
    assert world.arrived == world.sent


def test_no_return_path_is_the_null_sender(world: World) -> None:
    world.mail(mail("Message-ID: <1@x>"), mail("Return-Path: <>", "Message-ID: <2@x>"))
    world.poll().ended(0)
    assert [message.reverse_path for message in world.smtp.delivered] == [b"", b""]


def test_the_sender_is_rewritten_and_the_secret_is_nowhere(world: World) -> None:
    world.letters(1)
    world.mail(mail("Return-Path: <>", "Message-ID: <2@x>"))
    # A server that repeats what it should not know.
    world.smtp.faults = SmtpFaults(replies={"quit": f"221 {SECRET}\r\n".encode()})
    rules(world, 'sender = "srs"', 'srs_domain = "fwd.example"', f'srs_secret = "{SECRET}"')
    done = world.poll("--json", options=("-vvv",))
    assert done.code == 0
    first, second = (message.reverse_path.decode() for message in world.smtp.delivered)
    assert first.startswith("SRS0=")
    assert first.endswith("=example.net=ada@fwd.example")
    day = next(day for day in range(1 << 10) if srs.reverse(first, SECRET.encode(), day))
    assert srs.reverse(first, SECRET.encode(), day) == "ada@example.net"
    assert srs.reverse(first, b"another", day) is None
    assert second == ""
    assert SECRET not in done.out + done.err
    for path in world.state.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_rewritten_sender_is_kept_with_held_mail(world: World) -> None:
    world.letters(1)
    world.smtp.faults = SmtpFaults(replies={"rcpt": b"450 4.2.1 greylisted\r\n"})
    rules(world, 'sender = "srs"', 'srs_domain = "fwd.example"', f'srs_secret = "{SECRET}"')
    assert world.poll().code == 1
    (slip,) = world.kept("held")
    assert slip["reverse_path"].startswith("SRS0=")
    world.heal()
    world.poll().ended(0)
    assert [message.reverse_path.decode() for message in world.smtp.delivered] == [slip["reverse_path"]]


def test_recipients_in_a_header_can_not_give_commands(world: World) -> None:
    world.mail(mail("Message-ID: <1@x>", 'To: "a> SIZE=0\tRCPT TO:<b"@example.net, ada@example.net', body="x"))
    rules(world, 'source_domain = "example.net"')
    world.poll().ended(0)
    assert all(path.endswith(b"@example.net") for message in world.smtp.delivered for path in message.forward_paths)
    assert all(b"\r" not in path and b"\t" not in path for (path, *_) in paths(world))
    assert world.left == []


def test_routed_mail_beside_other_mail(world: World) -> None:
    """Each message has its own recipients, its own fate, and none waits for another."""
    world.mail(
        mail("Message-ID: <1@x>", "To: ada@example.net"),
        NOBODY,
        mail("Message-ID: <3@x>", "To: bob@example.net"),
        letter(4),
    )
    rules(world, 'source_domain = "example.net"', 'no_match = "badmail"')
    world.poll().ended(1, "message u2: badmail")
    assert paths(world) == [(b"ada@example.net",), (b"bob@example.net",), (b"office@example.net",)]
    assert world.left == ["u2"]
