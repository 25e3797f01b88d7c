"""A maildrop of the embedded server: listings as servers make them, the retrieval window, deletions, QUIT."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from poprep_cli.config.model import Address, Pop3, Secret
from poprep_cli.embedded.pop3 import Mail, Pop3Faults, Pop3Server
from poprep_cli.embedded.pop3 import Maildrop as Mailbox
from poprep_cli.errors import ConnectionFailed, RemoteProtocolError, ReplyError, Stopped
from poprep_cli.net.dialogue import LINES, Dialogue
from poprep_cli.net.maildrop import GROUP, MAX_UIDL, WINDOW_MESSAGES, Listed, Maildrop
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.wire import unstuff

CONTENT = b"Subject: x\r\n\r\n.dot\r\n"
LOGIN = ["CAPA", "APOP"]


def serve(count: int = 3, *, content: bytes = CONTENT, **faults) -> Pop3Server:
    mail = [Mail(b"u%d" % number, b"X-Number: %d\r\n" % number + content) for number in range(1, count + 1)]
    return Pop3Server(Mailbox(mail), faults=Pop3Faults(**faults))


@contextmanager
def opened(server: Pop3Server, *, timeout: float = 2.0, stop: Stop | None = None, **options) -> Iterator[Maildrop]:
    settings = options.pop("settings", {})
    with server:
        pop3 = Pop3(
            address=Address("127.0.0.1", server.port),
            tls="off",
            user="demo",
            password=Secret(value="demo"),
            auth=("apop", "user"),
            timeout=timeout,
            **settings,
        )
        maildrop = Maildrop(pop3, "demo", stop or Stop(), **options)
        try:
            yield maildrop
        finally:
            maildrop.close()


def always(_listed: Listed, _wait: bool) -> bool:
    return True


def fetched(maildrop: Maildrop, admit=always) -> list[tuple[int, bytes | None]]:
    """Return the numbers and contents of all messages, None for those that were refused."""
    found: list[tuple[int, bytes | None]] = []
    for listed, reply in maildrop.retrieve(maildrop.listed or maildrop.listing(), admit):
        found.append((listed.number, unstuff(b"".join(maildrop.parts(reply))) if reply.ok else None))
    return found


both_ways = pytest.mark.parametrize("pipelining", [True, False])


@both_ways
def test_listing(pipelining) -> None:
    server = serve()
    with opened(server, pipelining=pipelining) as maildrop:
        assert maildrop.pipelining is pipelining
        assert (maildrop.method, maildrop.tls, maildrop.peer, maildrop.server) == (
            "apop",
            False,
            "127.0.0.1",
            server.address,
        )
        size = len(CONTENT) + len(b"X-Number: 1\r\n")
        expected = [Listed(1, b"u1", size), Listed(2, b"u2", size), Listed(3, b"u3", size)]
        assert maildrop.listing() == maildrop.listed == expected
    assert server.sessions[0].verbs == [*LOGIN, "UIDL", "LIST"]
    batches = [command.batch for command in server.sessions[0].commands]
    assert (batches[2] == batches[3]) is pipelining


def test_an_empty_maildrop() -> None:
    with opened(serve(0)) as maildrop:
        assert maildrop.listing() == []
        assert fetched(maildrop) == []
        assert maildrop.delete([]) == {}
        assert maildrop.quit().ok


@pytest.mark.parametrize("faults", [{"announce_pipelining": False}, {"capa": "err"}, {"capa": "drop"}])
def test_pipelining_is_never_assumed(faults) -> None:
    server = serve(5, breaks_when_pipelined="drop", **faults)
    with opened(server) as maildrop:
        assert not maildrop.pipelining
        assert len(fetched(maildrop)) == 5
        assert all(reply.ok for reply in maildrop.delete([1, 2]).values())


def test_pipelining_may_be_switched_off() -> None:
    with opened(serve(5, breaks_when_pipelined="drop"), settings={"pipelining": "off"}) as maildrop:
        assert len(fetched(maildrop)) == 5


QUIRKS = [
    # Blank, duplicate, long, with spaces, in 8 bits: opaque octets, all of them.
    (b"1 a\r\n2\r\n3 \r\n", [b"a", b"", b""]),
    (b"1 same\r\n2 same\r\n3 SAME\r\n", [b"same", b"same", b"SAME"]),
    (b"1 with a space\r\n2  leading\r\n3 trailing \r\n", [b"with a space", b" leading", b"trailing "]),
    (b"1 \xff\x80\r\n2 \0\r\n3 " + b"x" * MAX_UIDL + b"\r\n", [b"\xff\x80", b"\0", b"x" * MAX_UIDL]),
    (b"1 ..\r\n2 .\r\n3 +OK\r\n", [b"..", b".", b"+OK"]),
    (b"1 a\nb\r\n2 b\r\n3 c\r\n", [b"a\nb", b"b", b"c"]),
    (b"3 c\r\n1 a\r\n2 b\r\n", [b"a", b"b", b"c"]),
]


@both_ways
@pytest.mark.parametrize(("lines", "uidls"), QUIRKS)
def test_quirks_of_uidl(lines, uidls, pipelining) -> None:
    with opened(serve(replies={"UIDL": b"+OK\r\n" + lines + b".\r\n"}), pipelining=pipelining) as maildrop:
        assert [listed.uidl for listed in maildrop.listing()] == uidls


@pytest.mark.parametrize(
    ("lines", "sizes"),
    [
        (b"1 10\r\n2 20 octets\r\n3 30 \r\n", [10, 20, 30]),
        (b"1\r\n2 many\r\n3 -5\r\n", [0, 0, 0]),
        (b"1 99999999999999999999\r\n2 0\r\n3 999999999999999\r\n", [0, 0, 999_999_999_999_999]),
        (b"1 \xb2\r\n2 0x10\r\n3 1_0\r\n", [0, 0, 0]),
    ],
)
def test_quirks_of_list(lines, sizes) -> None:
    with opened(serve(replies={"LIST": b"+OK\r\n" + lines + b".\r\n"})) as maildrop:
        assert [listed.size for listed in maildrop.listing()] == sizes


def test_mail_that_arrives_between_uidl_and_list_waits() -> None:
    with opened(serve(replies={"LIST": b"+OK\r\n1 1\r\n2 2\r\n3 3\r\n4 4\r\n.\r\n"})) as maildrop:
        assert [listed.number for listed in maildrop.listing()] == [1, 2, 3]
    with opened(serve(replies={"UIDL": b"+OK\r\n1 a\r\n2 b\r\n3 c\r\n4 d\r\n.\r\n"})) as maildrop:
        assert [listed.number for listed in maildrop.listing()] == [1, 2, 3]


@both_ways
def test_a_refused_listing(pipelining) -> None:
    with opened(serve(replies={"LIST": b"-ERR not today\r\n"}), pipelining=pipelining) as maildrop:
        with pytest.raises(ReplyError, match="refused LIST: -ERR not today"):
            maildrop.listing()
        assert maildrop.listed == []


@both_ways
def test_refused_uidls(pipelining) -> None:
    with opened(serve(replies={"UIDL": b"-ERR not today\r\n"}), pipelining=pipelining) as maildrop:
        assert [(listed.number, listed.uidl) for listed in maildrop.listing()] == [(1, b""), (2, b""), (3, b"")]
        assert str(maildrop.uidl_refusal) == "-ERR not today"


def test_what_uidl_passes_over_has_none() -> None:
    with opened(serve(4, replies={"UIDL": b"+OK\r\n1 a\r\n3 c\r\n.\r\n"})) as maildrop:
        assert [(listed.number, listed.uidl) for listed in maildrop.listing()] == [(1, b"a"), (2, b""), (3, b"c")]
        maildrop.rename({2: b"x", 3: b"y"})
        assert [listed.uidl for listed in maildrop.listed] == [b"a", b"x", b"y"]


@both_ways
def test_what_top_does_not_give_whole_is_read_again(pipelining) -> None:
    server = serve(5, truncate_top=20)
    with opened(server, pipelining=pipelining) as maildrop:
        found = []
        for listed, reply in maildrop.retrieve(maildrop.listing(), always, lambda listed: listed.number != 3):
            content = unstuff(b"".join(maildrop.parts(reply)))
            if reply.command.verb == "TOP":
                maildrop.read_again(listed)
            else:
                found.append((listed.number, content))
        assert sorted(found) == [(number, b"X-Number: %d\r\n" % number + CONTENT) for number in range(1, 6)]
        verbs = server.sessions[0].verbs
        assert (verbs.count("TOP"), verbs.count("RETR")) == (4, 5)


@pytest.mark.parametrize(
    "lines",
    [
        b"one 1\r\n",
        b"-1 1\r\n",
        b"\r\n",
        b" 1 1\r\n",
        b"1234567890 1\r\n",
        b"\xb2 1\r\n",
        b"+OK\r\n",
        b"1 " + b"x" * (MAX_UIDL + 1) + b"\r\n",
        b"1 " + b"x" * (3 << 20) + b"\r\n",
    ],
)
def test_a_listing_that_makes_no_sense(lines) -> None:
    with opened(serve(replies={"UIDL": b"+OK\r\n" + lines + b".\r\n"})) as maildrop, pytest.raises(RemoteProtocolError):
        maildrop.listing()


def test_a_line_without_end_is_not_collected() -> None:
    # It never ends, so that nothing but the limit of a line can end it before the timeout.
    server = serve(replies={"UIDL": b"+OK\r\n1 " + b"x" * (2 << 20)})
    with opened(server, timeout=20) as maildrop, pytest.raises(RemoteProtocolError, match="8192"):
        maildrop.listing()


def test_a_long_listing_comes_in_parts() -> None:
    lines = b"".join(b"%d %s\r\n" % (number, b"x" * 60) for number in range(1, 30_001))
    with opened(
        serve(replies={"UIDL": b"+OK\r\n" + lines + b".\r\n", "LIST": b"+OK\r\n" + lines + b".\r\n"})
    ) as maildrop:
        assert [listed.number for listed in maildrop.listing()] == list(range(1, 30_001))
        assert maildrop.quit().ok


# Retrieval


@both_ways
def test_every_message_comes_as_it_is(pipelining) -> None:
    contents = [
        b"",
        b".\r\n",
        b"a\r\n",
        b"a\n.\nb\n.\r\nc\r\n",
        b"\0\xff\r\n",
        b"x" * 3_000_000 + b"\r\n",
        b"after\r\n",
    ]
    server = Pop3Server(Mailbox([Mail(b"%d" % number, content) for number, content in enumerate(contents)]))
    with opened(server, pipelining=pipelining) as maildrop:
        assert fetched(maildrop) == list(enumerate(contents, 1))
        assert maildrop.quit().ok


def retrieval_batches(server: Pop3Server) -> int:
    return len({command.batch for command in server.sessions[-1].commands if command.verb == "RETR"})


def test_the_window_saves_round_trips() -> None:
    count = 2 * WINDOW_MESSAGES
    batches = {}
    for pipelining in (True, False):
        server = serve(count, latency=0.002)
        with opened(server, pipelining=pipelining) as maildrop:
            assert [number for number, _ in fetched(maildrop)] == list(range(1, count + 1))
        batches[pipelining] = retrieval_batches(server)
    assert batches[False] == count
    assert batches[True] < count // 2


def test_the_first_window_is_one_group() -> None:
    server = serve(WINDOW_MESSAGES)
    with opened(server) as maildrop:
        fetched(maildrop)
    assert retrieval_batches(server) == 1


def asked_before_first_reply(server: Pop3Server, admit=always) -> int:
    """Return how many RETRs were on their way when the first reply was taken."""
    with opened(server) as maildrop:
        asked: list[int] = []

        def count(listed: Listed, wait: bool) -> bool:
            admitted = admit(listed, wait)
            asked.extend([listed.number] * admitted)
            return admitted

        replies = maildrop.retrieve(maildrop.listing(), count)
        next(replies)
        return len(asked)


def test_the_window_is_bounded_in_messages_and_octets() -> None:
    assert asked_before_first_reply(serve(WINDOW_MESSAGES + 10)) == WINDOW_MESSAGES
    assert asked_before_first_reply(serve(10, list_sizes=lambda _number, _octets: 1 << 20)) == 4
    assert asked_before_first_reply(serve(10, list_sizes=lambda _number, _octets: 1 << 30)) == 1


def test_admission_is_asked_and_may_wait_only_with_an_empty_window() -> None:
    waits: list[tuple[int, bool]] = []

    def three_at_first(listed: Listed, wait: bool) -> bool:
        waits.append((listed.number, wait))
        return wait or listed.number < 3

    with opened(serve(4)) as maildrop:
        assert [number for number, _ in fetched(maildrop, three_at_first)] == [1, 2, 3, 4]
    assert [number for number, wait in waits if wait] == [1, 3, 4]
    assert (2, False) in waits


def test_admission_ends_the_retrieval() -> None:
    server = serve(10)
    with opened(server) as maildrop:
        assert [number for number, _ in fetched(maildrop, lambda listed, _wait: listed.number <= 4)] == [1, 2, 3, 4]
        assert maildrop.quit().ok
    assert server.retrieved == 4


@both_ways
def test_a_refused_message_stops_no_other(pipelining) -> None:
    with opened(serve(4, retr={2: "err"}), pipelining=pipelining) as maildrop:
        assert [(number, content is None) for number, content in fetched(maildrop)] == [
            (1, False),
            (2, True),
            (3, False),
            (4, False),
        ]
        assert maildrop.quit().ok


@both_ways
@pytest.mark.parametrize("fault", ["drop-mid", "hang-mid"])
def test_a_message_that_is_cut_is_never_whole(fault, pipelining) -> None:
    with opened(serve(3, retr={2: fault}), timeout=0.3, pipelining=pipelining) as maildrop:
        found: list[int] = []
        with pytest.raises(ConnectionFailed):
            for listed, reply in maildrop.retrieve(maildrop.listing(), always):
                b"".join(maildrop.parts(reply))
                found.append(listed.number)
        assert found == [1]


def test_one_octet_now_and_then_is_no_life() -> None:
    server = serve(1, content=CONTENT * 10, retr={1: "drip"}, drip_seconds=0.02)
    with opened(server, timeout=0.3) as maildrop, pytest.raises(ConnectionFailed, match="no answer came in time"):
        fetched(maildrop)


def test_the_stop_switch_ends_a_retrieval_at_once() -> None:
    stop = Stop()
    timer = threading.Timer(0.1, stop.trip)
    with opened(serve(3, retr={2: "hang-mid"}), timeout=30, stop=stop) as maildrop:
        timer.start()
        with pytest.raises(Stopped):
            fetched(maildrop)
    timer.join()


# Deletion and QUIT


@both_ways
def test_deletions_go_in_groups(pipelining) -> None:
    count = GROUP + 50
    server = serve(count)
    with opened(server, pipelining=pipelining) as maildrop:
        replies = maildrop.delete(range(1, count + 1))
        assert list(replies) == list(range(1, count + 1))
        assert all(reply.ok for reply in replies.values())
        assert len(server.maildrop.mail()) == count  # nothing is committed before QUIT
        assert maildrop.quit().ok
    assert server.maildrop.mail() == ()
    batches = len({command.batch for command in server.sessions[0].commands if command.verb == "DELE"})
    assert batches <= 4 if pipelining else batches == count


def test_each_deletion_has_its_reply() -> None:
    server = serve(3, replies={"DELE": lambda number: b"-ERR locked\r\n" if number == b"2" else None})
    with opened(server) as maildrop:
        assert {number: reply.ok for number, reply in maildrop.delete([3, 2, 1]).items()} == {
            3: True,
            2: False,
            1: True,
        }
        assert maildrop.quit().ok
    assert [mail.uidl for mail in server.maildrop.mail()] == [b"u2"]


@pytest.mark.parametrize("count", [0, 3, GROUP, GROUP + 50])
def test_quit_goes_with_the_last_deletions(count) -> None:
    server = serve(count, replies={"DELE": lambda number: b"-ERR locked\r\n" if number == b"2" else None})
    with opened(server) as maildrop:
        replies, answer = maildrop.delete_and_quit(range(1, count + 1))
    assert answer.ok
    assert [number for number, reply in replies.items() if not reply.ok] == [2][:count]
    assert list(replies) == list(range(1, count + 1))
    assert [mail.uidl for mail in server.maildrop.mail()] == [b"u2"][:count]
    assert server.sessions[0].quit


@pytest.mark.parametrize(("fault", "error"), [("drop", ConnectionFailed), ("empty-line", RemoteProtocolError)])
def test_a_server_that_chokes_on_dele(fault, error) -> None:
    server = serve(3, dele=fault)
    with opened(server) as maildrop, pytest.raises(error):
        maildrop.delete([1])
    assert len(server.maildrop.mail()) == 3


def test_a_dropped_line_commits_nothing() -> None:
    server = serve(3)
    with opened(server) as maildrop:
        maildrop.delete([1, 2, 3])
    assert len(server.maildrop.mail()) == 3
    assert not server.sessions[0].quit


def test_quit_says_whether_it_was_committed() -> None:
    server = serve(3, quit="err")
    with opened(server) as maildrop:
        maildrop.delete([1])
        assert not maildrop.quit().ok
    assert len(server.maildrop.mail()) == 3


@pytest.mark.parametrize("fault", ["drop-before-commit", "drop-after-commit", "hang"])
def test_a_quit_without_an_answer(fault) -> None:
    with opened(serve(3, quit=fault), timeout=0.3) as maildrop:
        maildrop.delete([1])
        with pytest.raises(ConnectionFailed):
            maildrop.quit()


def test_a_listing_that_comes_with_the_login_is_unchanged() -> None:
    """What was sent to the login is masked in the texts, not in the blocks; and the next listing is asked for anew."""
    digest = b""

    def uidl(_: bytes) -> bytes:
        nonlocal digest
        digest = next(command.line.split()[2] for command in server.sessions[-1].commands if command.verb == "APOP")
        return b"+OK %s demo\r\n1 demo\r\n2 %s\r\n3 u3\r\n.\r\n" % (digest, digest)

    server = serve(replies={"UIDL": uidl})
    said: list[str] = []
    with opened(server) as maildrop:
        memory = maildrop.memory
        maildrop.quit()
        pop3 = Pop3(
            address=Address("127.0.0.1", server.port),
            tls="off",
            user="demo",
            password=Secret(value="demo"),
            auth=("apop", "user"),
            timeout=2.0,
        )
        dialogue = Dialogue("POP3", lambda _level, text: said.append(text), LINES)
        second = Maildrop(pop3, "demo", Stop(), memory, dialogue=dialogue)
        assert server.sessions[1].verbs == ["APOP", "UIDL", "LIST"]
        assert [listed.uidl for listed in second.listing()] == [b"demo", digest, b"u3"]
        assert [text for text in said if digest.decode() in text] == []
        assert "POP3 S: +OK *** ***" in said
        assert [listed.uidl for listed in second.listing()] == [b"demo", digest, b"u3"]
        assert f"POP3 S: +OK {digest.decode()} demo" in said  # the login is over
        second.close()
    assert server.sessions[1].verbs == ["APOP", "UIDL", "LIST", "UIDL", "LIST"]
    assert {command.batch for command in server.sessions[1].commands} == {1, 2}
