"""The pieces of the benchmarks: what they count is right, and what went wrong gets no time."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import mail
from benchmarks.contenders import Contender, contenders
from benchmarks.peers import PEERS, POPREP, Command, Setting, selected
from benchmarks.plot import svg
from benchmarks.servers import PASSWORD, Delay, Meter, Sink
from benchmarks.sink import Ledger, Session
from benchmarks.table import markdown
from benchmarks.trial import Field, Run
from benchmarks.workloads import LIST, START, WORKLOADS, Workload, chosen
from tests.real.dovecot import Dovecot

OURS = selected(POPREP)
BLOCK = b"Subject: x\r\n\r\n..one\r\ntwo\r\n.\r\n"
CONTENT = b"Subject: x\r\n\r\n.one\r\ntwo\r\n"

posix = pytest.mark.skipif(sys.platform == "win32", reason="only POSIX tells the memory of children")


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as server:
        yield server


def told(ledger: Ledger, *octets: bytes) -> bytes:
    session = Session(ledger)
    return b"".join(session.receive(part) for part in octets)


@pytest.mark.parametrize("size", [300, 4096, 400_000])
def test_a_message_has_its_size(size: int) -> None:
    wire = mail.wire_form(mail.message(7, size))
    assert abs(len(wire) - size) < 600
    assert wire == mail.wire_form(mail.message(7, size))
    assert max(len(line) for line in wire.splitlines()) <= 78


def test_messages_differ_in_their_bodies() -> None:
    contents = [mail.wire_form(content) for content in mail.batch(50, 2000)]
    assert len({mail.digest(content) for content in contents}) == 50
    assert all(b"\r\n." in content for content in contents)
    assert mail.digest(b"X-Added: yes\r\n" + contents[0]) == mail.digest(contents[0])


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_the_sink_takes_data_and_chunks(step: int) -> None:
    envelope = b"MAIL FROM:<>\r\nRCPT TO:<a@example.net>\r\n"
    octets = envelope + b"DATA\r\n" + BLOCK + envelope + b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT
    octets += envelope + b"BDAT 5\r\n" + CONTENT[:5] + b"BDAT %d\r\n" % (len(CONTENT) - 5) + CONTENT[5:]
    octets += b"BDAT 0 LAST\r\nDATA\r\n.\r\nQUIT\r\n"
    ledger = Ledger()
    replies = told(ledger, *(octets[start : start + step] for start in range(0, len(octets), step)))
    assert [int(line[:3]) for line in replies.splitlines()] == [250, 250, 354, *[250] * 9, 354, 250, 221]
    count = ledger.take()
    assert count.digests == [*[mail.digest(CONTENT)] * 3, mail.digest(b"")]
    assert (count.data, count.chunked, count.sessions, count.faults) == (2, 2, 1, [])


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (b"DATA\r\na\r\n.b\r\n.\r\n", "a dot at the start of a line was not doubled"),
        (b"DATA\r\n.b\r\n.\r\n", "a dot at the start of a line was not doubled"),
        (b"DATA\r\na\nb\r\n.\r\n", "a stray CR or LF"),
        (b"BDAT 3 LAST\r\na\rb", "a stray CR or LF"),
        (b"HELP\r\n", "an unknown command: b'HELP'"),
    ],
)
def test_the_sink_notes_wrong_framing(octets: bytes, fault: str) -> None:
    ledger = Ledger()
    told(ledger, octets)
    assert ledger.take().faults == [fault]


def test_the_sink_offers_chunking_only_if_it_shall() -> None:
    ledger = Ledger()
    assert b"250 CHUNKING\r\n" in told(ledger, b"EHLO x\r\n")
    ledger.begin(round_trip=0.0, acknowledge=True, chunking=False)
    assert b"CHUNKING" not in told(ledger, b"EHLO x\r\n")


def test_a_line_with_a_round_trip(sink: Sink) -> None:
    """The greeting takes two round trips, an answer one, commands sent at once one together; each end counts the waits."""
    with Delay(0.1, sink.port) as line:
        sink.begin(round_trip=0.1)
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", line.port), timeout=10) as client:
            assert client.recv(1000).startswith(b"220")
            greeted = time.monotonic()
            client.sendall(b"NOOP\r\n" * 3)
            replies = b""
            while len(replies) < 24:
                replies += client.recv(1000)
            answered = time.monotonic()
            client.sendall(b"QUIT\r\n")
            assert client.recv(1000).startswith(b"221")
            assert client.recv(1000) == b""
        assert 0.19 < greeted - began < 1
        assert 0.09 < answered - greeted < 0.5
        assert replies == b"250 OK\r\n" * 3
        assert sink.take()["round_trips"] == line.take() == 2  # for NOOP and for QUIT
        assert line.take() == 0


def test_a_line_keeps_order_and_size() -> None:
    sent = os.urandom(3_000_000)
    received = bytearray()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while part := connection.recv(1 << 16):
                received.extend(part)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with Delay(0.02, listener.getsockname()[1]) as line:
            with socket.create_connection(("127.0.0.1", line.port), timeout=10) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
            thread.join(10)
    assert received == sent


@posix
def test_the_meter_measures_a_command_and_its_children(tmp_path: Path) -> None:
    grow = "x = b'x' * 100_000_000; import sys; print('told'); sys.exit(3)"
    shell = ["/bin/sh", "-c", f'"{sys.executable}" -I -S -c "{grow}"; exit $?']
    with Meter() as meter:
        took = meter.run(shell, os.environ, tmp_path, tmp_path / "output", 30)
        assert (took["code"], (tmp_path / "output").read_text()) == (3, "told\n")
        assert 100_000 < took["peak_kib"] < 200_000
        small = meter.run(["/bin/sh", "-c", ":"], os.environ, tmp_path, tmp_path / "output", 30)
        assert small["peak_kib"] < 20_000
        late = meter.run(["/bin/sh", "-c", "sleep 20"], os.environ, tmp_path, tmp_path / "output", 0.2)
        assert late["code"] == -9
        assert late["seconds"] < 5


def test_every_program_gets_its_files(tmp_path: Path) -> None:
    for peer in PEERS:
        folder = tmp_path / peer.name
        folder.mkdir()
        commands = peer.prepare(Setting(folder, ["ann", "joe"], 1110, 1025, keep=True, known={"ann": ["u1", "u2"]}))
        assert all(command[0] in peer.programs for command in commands)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert all(path.stat().st_mode & 0o077 == 0 or path.name.startswith("fdm-") for path in files)
        assert any("u1" in path.read_text() for path in files), f"{peer.name} is not told what it knows"


def test_workloads_are_chosen_by_name() -> None:
    assert chosen(None) == list(WORKLOADS)
    assert [workload.name for workload in chosen("W1,W4")] == ["W1", "W4a", "W4b", "W4c"]
    with pytest.raises(ValueError, match="there is no workload 'W99'"):
        chosen("W99")


def test_programs_are_selected_by_name() -> None:
    assert selected(None) == list(PEERS)
    assert [peer.name for peer in selected("fdm,getmail")] == ["getmail, LMTP", "getmail + msmtp", "fdm"]
    with pytest.raises(ValueError, match="there is no program 'pine'"):
        selected("pine")


@pytest.mark.real
def test_trials_against_dovecot(sink: Sink) -> None:
    """The limit and poprep move and list mail; whoever moves nothing has an error."""

    def idle(_: Setting) -> list[Command]:
        return [[sys.executable, "-I", "-S", "-c", ""]]

    copy = Workload("small", "a few messages", messages=7, users=2, pop3_round_trip=0.01, smtp_round_trip=0.01)
    kept = Workload("kept", "nothing new", LIST, kept=30)
    empty = Workload("empty", "nothing", START)
    encrypted = Workload("tls", "in TLS", messages=3, tls=True, chunking=False)
    users = [*copy.user_names, *kept.user_names, *empty.user_names]
    with Dovecot(dict.fromkeys(users, PASSWORD)) as dovecot, Meter() as meter:
        field = Field(dovecot, sink, meter)

        def run(workload: Workload, *more: Contender) -> dict[str, list[Run]]:
            found = contenders(workload, OURS if workload.users == 1 else [])
            return field.run(workload, [*found, *more], 2, lambda _: None)

        runs = run(copy, Contender("idle", idle))
        (lazy,) = runs.pop("idle")  # it gets no second chance
        assert lazy.error == "14 of 14 messages did not arrive as they were, 0 others did"
        for workload in (kept, empty, encrypted):
            runs |= {f"{workload.name} {name}": one for name, one in run(workload).items()}
        assert [run for one in runs.values() for run in one if run.error] == []
        assert {len(one) for one in runs.values()} == {2}
        assert len(runs) == 2 + 2 + 4 + 2
        assert runs["raw copy, BDAT"][0].pop3_round_trips is not None


def test_tables_and_plot_say_what_failed() -> None:
    good = Run(0.5, 0.1, 20480, 1, 3, 11).as_dict()
    slow = Run(2.0, 0.2, 10240, 1, 30, 10).as_dict()
    bad = Run(0.1, 0.1, 1024, error="1 of 10 messages did not arrive").as_dict()
    results = {
        "date": "2026-01-01",
        "machine": {"Machine": "one"},
        "versions": {"Dovecot": "2.3"},
        "workloads": {
            "W2": {
                "title": "a <few> messages",
                "messages": 10,
                "runs": {"raw copy, BDAT": [good], POPREP: [slow, good, slow], "lossy": [good, bad], "absent": []},
            }
        },
    }
    lines = markdown(results).splitlines()
    assert "| raw copy, BDAT | 0.500 | 1.00 | 0.25 | 0.10 | 20 | 1 | 0.30 | 1.10 |" in lines
    assert "| poprep | 2.000 | 4.00 | 1.00 | 0.20 | 10 | 3 | 3.00 | 1.00 |" in lines
    assert "| lossy | 1 of 10 messages did not arrive |  |  |  |  | 2 |  |  |" in lines
    assert "| absent | not installed |  |  |  |  | 0 |  |  |" in lines
    plot = svg(results)
    assert "a &lt;few&gt; messages" in plot
    assert "lossy" not in plot
