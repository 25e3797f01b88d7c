"""The POP3 server is not there, lets nobody in, breaks off, cuts mail short or lies about it."""

from __future__ import annotations

import pytest

from poprep_cli.embedded.samples import samples
from tests.poll.world import Pop3Faults, World, letter


def untouched(world: World) -> None:
    """Assert that nothing has moved."""
    assert world.smtp.sessions == []
    assert world.kept("held") == []
    assert world.kept("badmail") == []
    assert len(world.left) == len(world.sent)


def test_nobody_listens(world: World) -> None:
    world.letters(2)
    world.write()
    world.pop3.stop()
    world.run().ended(75, f"office: can't connect to {world.pop3.address} .*refused")
    untouched(world)
    world.pop3.start()
    world.config.unlink()
    world.recovers()


def test_a_wrong_password(world: World) -> None:
    world.letters(2)
    world.password = "not-this-one"
    done = world.run()
    done.ended(77, f"office: {world.pop3.address} refused the login of office: .*wrong")
    assert "not-this-one" not in done.err
    untouched(world)
    world.config.unlink()
    world.password = "Tr0ub4dor-and-3"
    world.recovers()


@pytest.mark.parametrize(
    ("faults", "code", "pattern"),
    [
        (Pop3Faults(apop=False, refuse_user=b"-ERR [IN-USE] somebody else is here\r\n"), 75, "for now: -ERR .IN-USE"),
        (Pop3Faults(apop=False, refuse_user=b"-ERR [LOGIN-DELAY] wait\r\n"), 75, "for now: -ERR .LOGIN-DELAY"),
        (Pop3Faults(apop=False, refuse_user=b"-ERR [SYS/TEMP] oops\r\n"), 75, "for now: -ERR .SYS/TEMP"),
        (Pop3Faults(apop=False, refuse_user=b"-ERR maildrop is locked\r\n"), 75, "for now: -ERR maildrop is locked"),
        (
            Pop3Faults(apop=False, refuse_user=b"-ERR [AUTH] no\r\n"),
            77,
            "refused the login of office: .*-ERR .AUTH. no",
        ),
        (Pop3Faults(refuse_apop=b"-ERR [IN-USE] somebody else\r\n"), 75, "for now: -ERR .IN-USE"),
        (Pop3Faults(greeting=b"-ERR go away\r\n"), 69, "refused the connection: -ERR go away"),
        (Pop3Faults(greeting=b"-ERR [SYS/TEMP] maintenance\r\n"), 75, "for now: -ERR .SYS/TEMP. maintenance"),
        (
            Pop3Faults(greeting=b"220 smtp.example ESMTP\r\n"),
            76,
            "the answer to greeting is not POP3: 220 smtp.example",
        ),
        (Pop3Faults(no_greeting=True), 75, "no answer came in time"),
        (Pop3Faults(replies={"UIDL": b"-ERR [SYS/TEMP] later\r\n"}), 75, "refused UIDL: -ERR .SYS/TEMP. later"),
        (Pop3Faults(replies={"LIST": b"-ERR no list\r\n"}), 69, "refused LIST: -ERR no list"),
        (Pop3Faults(replies={"UIDL": b"+OK\r\nsome text\r\n.\r\n"}), 76, "no message number: some text"),
        (Pop3Faults(replies={"LIST": "hang"}), 75, "no answer came in time"),
        (Pop3Faults(replies={"LIST": "drop"}), 75, "closed the connection"),
        (Pop3Faults(replies={"PASS": b"\r\n"}, apop=False), 76, "the answer to PASS .* is not POP3: an empty line"),
    ],
)
def test_before_any_mail(world: World, faults: Pop3Faults, code: int, pattern: str) -> None:
    world.timeout = 0.3
    world.letters(2)
    world.pop3.faults = faults
    world.poll().ended(code, f"office: .*{pattern}")
    untouched(world)
    assert world.statuses() == {}
    world.recovers()


def test_another_session_has_the_maildrop(world: World) -> None:
    world.letters(2)
    assert world.pop3.maildrop.acquire()
    world.run().ended(75, f"office: {world.pop3.address} can't let us in for now: -ERR .IN-USE.")
    untouched(world)
    world.pop3.maildrop.release()
    world.recovers()


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("fault", ["drop-mid", "hang-mid"])
def test_a_message_that_breaks_the_line_does_not_stop_the_others(world: World, fault: str, pipelining: bool) -> None:
    world.timeout = 0.5
    world.letters(5)
    world.pop3.faults = Pop3Faults(retr={2: fault}, announce_pipelining=pipelining)  # type: ignore[dict-item]
    why = "no answer came in time" if fault == "hang-mid" else "closed the connection"
    world.poll().ended(75, f"office: .*{why} while message 2 was read")
    assert sorted(world.arrived) == sorted(world.sent[:1] + world.sent[2:])
    assert world.left == ["u2"]
    assert world.statuses()["u2"] == "seen"
    assert world.kept("held") == []
    world.recovers()


def test_a_break_in_the_middle_as_a_user_sees_it(world: World) -> None:
    world.letters(3)
    world.pop3.faults = Pop3Faults(retr={2: "drop-mid"})
    world.run().ended(75, f"office: {world.pop3.address} closed the connection while message 2 was read")
    assert world.left == ["u2"]
    world.recovers()


def test_several_messages_that_break_the_line(world: World) -> None:
    world.letters(8)
    world.pop3.faults = Pop3Faults(retr={2: "drop-mid", 5: "drop-mid"})
    world.poll().ended(75, "office: .*closed the connection while message [25] was read")
    assert world.left == ["u2", "u5"]
    assert len(world.smtp.delivered) == 6
    world.recovers()


@pytest.mark.parametrize("after", [0, 3])
def test_a_server_that_always_hangs_up_after_some(world: World, after: int) -> None:
    world.letters(6)
    world.pop3.faults = Pop3Faults(retr_drop_after=after)
    done = world.poll()
    assert done.code == 75, done
    assert len(world.smtp.delivered) == after
    assert len(world.pop3.sessions) <= 5
    world.recovers()


def test_a_message_cut_by_the_server_is_not_deleted_until_read_twice(world: World) -> None:
    cut = letter(2, b"line\r\n" * 40)
    world.mail(letter(1), cut, letter(3))
    world.pop3.faults = Pop3Faults(retr={2: "cut"})
    world.poll().ended(
        0, r"message u2: delivered, kept on the server: \d+ octets came where LIST said \d+; a second read"
    )
    assert world.left == ["u2"]
    (part,) = set(world.arrived) - set(world.sent)
    assert cut.startswith(part)
    world.heal()
    world.poll().ended(0)
    assert world.left == ["u2"]  # the second read gave another message: it is never deleted
    assert len(world.smtp.delivered) == 3


def test_list_says_more_than_comes(world: World) -> None:
    world.letters(3)
    world.pop3.faults = Pop3Faults(list_sizes=lambda _number, size: size + 10)
    world.poll().ended(0, *["message u[123]: delivered, kept on the server: "] * 3)
    assert sorted(world.arrived) == world.sent
    assert world.left == ["u1", "u2", "u3"]
    read = world.pop3.retrieved
    world.poll().ended(0)
    assert world.pop3.retrieved == read + 3
    assert world.left == []
    world.recovers()


def test_list_says_less_than_comes(world: World) -> None:
    world.letters(3)
    world.pop3.faults = Pop3Faults(list_sizes=lambda _number, _size: 1)
    world.poll().ended(0)
    assert world.left == []
    world.recovers()


def test_retr_refused_for_one_message(world: World) -> None:
    world.letters(4)
    world.pop3.faults = Pop3Faults(retr={3: "err"})
    world.run().ended(1, "office: message u3: left on the server: RETR was refused: -ERR message can not load")
    assert world.left == ["u3"]
    assert world.arrived == world.sent[:2] + world.sent[3:]
    world.recovers()


@pytest.mark.parametrize("trouble", ["drop", "discard"])
def test_pipelining_is_announced_and_broken(world: World, trouble: str) -> None:
    world.timeout = 0.4
    world.letters(4)
    world.pop3.faults = Pop3Faults(breaks_when_pipelined=trouble)  # type: ignore[arg-type]
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.left == []
    world.recovers()


def test_pipelining_switched_off(world: World) -> None:
    world.letters(4)
    world.pop3_lines = 'pipelining = "off"'
    world.pop3.faults = Pop3Faults(breaks_when_pipelined="drop")
    world.poll().ended(0)
    world.recovers()


def test_blank_and_duplicate_uidls(world: World) -> None:
    world.letters(5)
    world.pop3.faults = Pop3Faults(uidl={2: b"", 4: b"u3"})
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.left == []


@pytest.mark.parametrize(
    "uidl", [b"with space", b"\xff\xfe8bit", b"x" * 400, b'"quoted"\\', "Grüße".encode(), b"[red]"]
)
def test_strange_uidls(world: World, uidl: bytes) -> None:
    world.leave_copy = True
    world.letters(2)
    world.pop3.faults = Pop3Faults(uidl={1: uidl})
    world.poll().ended(0)
    assert world.arrived == world.sent
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert len(world.left) == 2


def test_mail_that_is_hidden_once_it_was_read(world: World) -> None:
    world.letters(12)
    world.pop3.faults = Pop3Faults(hide_read=True)
    world.write()
    world.smtp.faults = type(world.smtp.faults)(replies={"greeting": b"421 4.3.2 down\r\n"})
    done = world.poll()
    assert done.code == 75
    assert len(world.kept("held")) == world.pop3.retrieved
    world.heal()
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert world.kept("held") == []


def test_mail_that_is_hidden_is_delivered_and_left(world: World) -> None:
    world.leave_copy = True
    world.letters(3)
    world.pop3.faults = Pop3Faults(hide_read=True)
    world.poll().ended(0, "EXPIRE 0")
    assert world.arrived == world.sent
    world.poll().ended(0)
    assert world.arrived == world.sent
    assert len(world.left) == 3


def test_every_kind_of_sample_arrives_as_it_was(world: World) -> None:
    world.mail(*samples())
    world.run().ended(0)
    assert world.arrived == world.sent
    world.recovers()


def test_a_maildrop_that_stays_locked_for_a_moment_after_a_break(world: World) -> None:
    world.letters(3)
    refusals = [b"-ERR [IN-USE] the last session is not over\r\n"]

    def locked(_argument: bytes) -> bytes | None:
        return refusals.pop() if len(world.pop3.sessions) > 1 and refusals else None

    world.pop3.faults = Pop3Faults(retr_drop_after=2, apop=False, replies={"PASS": locked})
    assert world.poll().code == 75
    assert refusals == []
    assert world.left == ["u3"]
    world.recovers()


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("announced", [True, False], ids=["pipelined", "one by one"])
def test_a_message_that_forges_the_next_answer(world: World, announced: bool, late: bool) -> None:
    # Dovecot 2.3 does not double a dot that is a message's first octet: the rest of the message looks like answers.
    forgery = b"+OK 17 octets\r\nSubject: forged\r\n\r\nx\r\n.\r\n"

    def poisoned(argument: bytes) -> bool:
        return bool(argument) and world.pop3.maildrop.mail()[int(argument) - 1].uidl == b"u2"

    def retr(argument: bytes) -> bytes | None:
        return b"+OK\r\n.\r\n" + (b"" if late else forgery) if poisoned(argument) else None

    def uidl(argument: bytes) -> bytes | None:
        return forgery if late and poisoned(argument) else None

    world.letters(4)
    world.pop3.faults = Pop3Faults(replies={"RETR": retr, "UIDL": uidl}, announce_pipelining=announced)
    for _ in range(2):
        world.poll()
        assert world.left == ["u2"]
        assert sorted(world.arrived) == sorted(mail for number, mail in enumerate(world.sent) if number != 1)
        assert world.statuses().get("u2") == "seen"
    world.heal()
    world.recovers()
