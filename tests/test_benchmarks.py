"""The pieces of the benchmarks: what they count is right, and what went wrong gets no time."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mail, trial
from benchmarks.__main__ import main
from benchmarks.contenders import FIRST_QUIET, RAW, RAW_BDAT, Contender, contenders
from benchmarks.document import BEGIN, END
from benchmarks.peers import PEERS, POPREP, Command, Setting, selected
from benchmarks.plot import svg
from benchmarks.servers import PASSWORD, Delay, Meter, Sink
from benchmarks.sink import Ledger, Session
from benchmarks.summary import growth, summary
from benchmarks.table import markdown
from benchmarks.trial import Field, Run, scaled
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
    kept = Workload("kept", "nothing new", LIST, kept=30, first=True)
    empty = Workload("empty", "nothing", START)
    encrypted = Workload("tls", "in TLS", messages=3, tls=True, chunking=False, first=True)
    users = [*copy.user_names, *kept.user_names, *empty.user_names]
    with Dovecot(dict.fromkeys(users, PASSWORD)) as dovecot, Meter() as meter:
        field = Field(dovecot, sink, meter)

        def run(workload: Workload, *more: Contender) -> dict[str, list[Run]]:
            found = contenders(workload, OURS if workload.users == 1 else [])
            return field.run(workload, [*found, *more], 2, lambda _: None)

        runs = run(copy, Contender("idle", idle), Contender("lazy", idle, again=False))
        (lazy,) = runs.pop("lazy")  # it gets no second chance
        assert lazy.error == "14 of 14 messages did not arrive as they were, 0 others did"
        (early,) = runs.pop("idle")  # it is held to the pass before as well
        assert early.error == "the pass before: 2 of 2 messages did not arrive as they were, 0 others did"
        for workload in (kept, empty, encrypted):
            runs |= {f"{workload.name} {name}": one for name, one in run(workload).items()}
        assert [run for one in runs.values() for run in one if run.error] == []
        assert {len(one) for one in runs.values()} == {2}
        assert len(runs) == 2 + 3 + 4 + 3
        assert all(run.before > 0 for run in runs["tls poprep"])
        assert all(run.before == 0 for run in runs["tls poprep, first pass"])
        assert runs["raw copy, BDAT"][0].pop3_round_trips is not None


@pytest.mark.real
def test_who_takes_long_does_a_share(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fast measurement what would take too long is done once, in part, and what wouldn't is done whole."""
    monkeypatch.setattr(trial, "SLOW", 2.0)
    work = Workload("shared", "a few messages", messages=6, share=3)
    with Dovecot(dict.fromkeys(work.user_names, PASSWORD)) as dovecot, Meter() as meter:
        (raw, *_) = contenders(work, [])

        def late(setting: Setting) -> list[Command]:
            return [[sys.executable, "-I", "-S", "-c", "import time; time.sleep(0.8)"], *raw.prepare(setting)]

        late_one = replace(raw, name="late", prepare=late, inside=False)
        ours = replace(raw, name="ours", scales=False)
        runs = Field(dovecot, sink, meter).run(work, [raw, late_one, ours], 2, lambda _: None, fast=True)
    assert [run.error for one in runs.values() for run in one if run.error] == []
    assert {name: [run.part for run in one] for name, one in runs.items()} == {
        raw.name: [0, 0],
        "late": [2],
        "ours": [0, 0],
    }
    assert runs["late"][0].seconds > 2.4


def test_what_a_share_took_is_scaled() -> None:
    whole = Workload("one", "", messages=300, share=3)
    assert whole.part().whole == 100
    run = Run(20.8, 2.0, 1024, before=1.0)
    # 0.2 s for each message but the first, which took the second that every pass takes.
    assert scaled(run, whole.part(), whole).seconds == pytest.approx(1.0 + 299 * 0.2)
    assert scaled(run, whole.part(), whole).cpu == pytest.approx(6.0)
    assert scaled(run, whole.part(), whole).part == 100
    assert scaled(Run(20.8, 2.0, 1024), whole.part(), whole).seconds == pytest.approx(62.4)
    users = Workload("two", "", messages=1, users=50, share=5)
    assert users.part().whole == 10
    assert scaled(run, users.part(), users).seconds == pytest.approx(104)
    assert Workload("three", "", messages=7).part().whole == 7


def test_the_pass_before_is_small() -> None:
    for workload in WORKLOADS:
        before = workload.before()
        assert before.octets <= 4096
        assert before.user_names == workload.user_names
        assert before.whole == len(before.user_names)


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


def figures(**workloads: dict[str, Any]) -> dict[str, Any]:
    return {"date": "2026-01-01", "machine": {}, "versions": {}, "workloads": workloads}


def workload_of(times: dict[str, float], *, messages: int = 100, kept: int = 0, part: int = 0) -> dict[str, Any]:
    runs = {name: [Run(time, 0.1, 1024, part=part if name == "slow" else 0).as_dict()] for name, time in times.items()}
    return {"title": "some", "messages": messages, "kept": kept, "runs": runs}


def test_the_summary_compares_with_the_limit_and_the_fastest() -> None:
    one = workload_of(
        {RAW_BDAT: 0.5, POPREP: 1.0, "poprep, max_in_flight = 64": 0.75, "fdm": 5.0, "slow": 60.0}, part=30
    )
    start = workload_of({RAW: 0.01, "python imports": 0.05, "poprep --version": 0.04, POPREP: 0.06}, messages=0)
    results = figures(W2s=one, W5=start)
    assert summary(results).splitlines()[2:] == [
        "| W2s | 0.500 s (raw copy, BDAT) | 1.000 s | 2.00 x | +0.500 s | 5.000 s (fdm) | 5.0 x |",
        "| W2s, max_in_flight = 64 | 0.500 s (raw copy, BDAT) | 0.750 s | 1.50 x | +0.250 s | 5.000 s (fdm) | 6.7 x |",
        "| W5 | 0.050 s (python imports) | 0.060 s | 1.20 x | +0.010 s |  |  |",
    ]
    assert "| slow | 60.000 | 120.00 | 60.00 | 0.10 | 1 | 1, of 30 messages, scaled |" in markdown(results).splitlines()
    plot = svg(results)
    assert "60 s, scaled" in plot
    assert "5 s</text>" in plot


def test_growth_is_told() -> None:
    results = figures(
        W1=workload_of({RAW_BDAT: 0.1, POPREP: 0.5}, messages=2000),
        W1x=workload_of({RAW_BDAT: 1.0, POPREP: 4.0}, messages=20_000),
        W4a=workload_of({RAW: 0.01, POPREP: 0.07, FIRST_QUIET: 0.11}, kept=5_000),
        W4c=workload_of({RAW: 0.41, POPREP: 0.509, FIRST_QUIET: 1.095}, kept=200_000),
    )
    more, quiet, first = growth(results)
    assert more == "10 times the messages of W1 (W1x) take poprep 8.0 times as long, the raw copy 10.0 times."
    assert quiet == (
        "A quiet pass takes 60 and 99 ms above the raw listing of 5,000 and 200,000 kept messages: "
        "between the last two 0.20 \u00b5s, and 0.00 \u00b5s of CPU, per kept message."
    )
    assert first.startswith("The first quiet pass takes 100 and 685 ms above the raw listing of 5,000 and 200,000 kept")
    assert "between the last two 3.00 \u00b5s" in first
    assert growth(figures(W1=workload_of({}))) == []


def test_kept_figures_are_put_into_a_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, document, plot = (
        tmp_path / "figures.json",
        tmp_path / "docs" / "speed.md",
        tmp_path / "docs" / "images" / "a.svg",
    )
    document.parent.mkdir()
    document.write_text(f"# Speed\n\n{BEGIN}\nold\n{END}\n\nMore.\n", "utf-8")
    results = figures(W1=workload_of({RAW_BDAT: 0.5, POPREP: 1.0}))
    kept.write_text(json.dumps(results), "utf-8")
    arguments = ["--from", str(kept), "--into", str(document), "--plot", str(plot)]
    assert main(arguments) == 0
    once = document.read_text("utf-8")
    assert main(arguments) == 0
    assert document.read_text("utf-8") == once
    image = "![Seconds of each program in each workload, on a logarithmic scale](images/a.svg)"
    assert once == f"# Speed\n\n{BEGIN}\n\n{image}\n\n{markdown(results).strip()}\n\n{END}\n\nMore.\n"
    assert plot.read_text("utf-8") == svg(results)
    assert "### Summary" in capsys.readouterr().out


def test_a_run_that_went_wrong_shows_in_the_exit_code(tmp_path: Path) -> None:
    one = workload_of({POPREP: 1.0})
    one["runs"][POPREP][0]["error"] = "1 of 10 messages did not arrive"
    kept = tmp_path / "figures.json"
    kept.write_text(json.dumps(figures(W1=one)), "utf-8")
    assert main(["--from", str(kept)]) == 1


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_document_without_a_place_for_figures_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured."""
    document = tmp_path / "speed.md"
    document.write_text(text, "utf-8")
    with pytest.raises(SystemExit):
        main(["--from", str(tmp_path / "none.json"), "--into", str(document)])
    assert "figures are put between them" in capsys.readouterr().err
    assert document.read_text("utf-8") == text
