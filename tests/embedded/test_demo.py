"""`poprep demo`, as a user runs it, and what it checks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from poprep_cli.cli import demo
from poprep_cli.embedded.deliveries import Delivered
from poprep_cli.embedded.pop3 import Maildrop, Pop3Server
from poprep_cli.embedded.samples import dots, plain
from poprep_cli.embedded.smtp import SmtpServer
from poprep_cli.errors import ExitCode, PoprepError

PROGRAM = [sys.executable, "-m", "poprep_cli", "demo"]
TRACE = b"Received: by poprep\r\n\tfor you; today\r\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[demo.World]:
    maildrop = Maildrop()
    for content in (plain(), dots()):
        maildrop.add(content)
    with Pop3Server(maildrop) as pop3, SmtpServer() as smtp:
        yield demo.World(tmp_path, pop3, smtp)


def deliver(world: demo.World, content: bytes, recipient: str = demo.SEND_TO) -> None:
    envelope = Delivered(b"", (recipient.encode(),), b"", 0, "")
    world.smtp.deliveries.add(envelope, content)


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which temporary folders are made here."""
    return os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder), "PYTHONUNBUFFERED": "1"}


def test_all_that_arrived_is_told(world: demo.World, capsys: pytest.CaptureFixture[str]) -> None:
    deliver(world, TRACE + dots())
    deliver(world, TRACE + plain())
    demo.report_arrivals(world)
    demo.report_no_repeats(world)
    told = capsys.readouterr().out
    assert "1 " in told
    assert "Lunch on Friday" in told
    assert sha256(plain()).hexdigest()[:12] in told
    assert "Nothing arrived twice" in told


def test_what_is_missing_altered_repeated_or_misdirected_fails(world: demo.World) -> None:
    deliver(world, TRACE + plain())
    with pytest.raises(PoprepError, match="2 messages were in the mailbox, and 1 arrived") as caught:
        demo.report_arrivals(world)
    assert caught.value.exit_code == ExitCode.SOFTWARE
    deliver(world, TRACE + dots() + b"!")
    with pytest.raises(PoprepError, match="not all the same"):
        demo.report_arrivals(world)
    world.smtp.delivered.pop()
    deliver(world, TRACE + dots())
    demo.report_arrivals(world)
    deliver(world, TRACE + dots())
    with pytest.raises(PoprepError, match="3 messages have arrived"):
        demo.report_no_repeats(world)
    with pytest.raises(PoprepError, match="3 arrived"):
        demo.report_arrivals(world)
    world.smtp.delivered.clear()
    deliver(world, TRACE + dots(), "me@example.com")
    with pytest.raises(PoprepError, match="somebody else"):
        demo.report_arrivals(world)


def test_the_configuration_is_private_and_right(world: demo.World) -> None:
    from poprep_cli.config.load import load

    demo.write_private(world.config, demo.configuration(world, "hush"))
    if os.name == "posix":
        assert world.config.stat().st_mode & 0o777 == 0o600
    connector = load(world.config).connectors[0]
    assert (str(connector.pop3.address), connector.pop3.user) == (world.pop3.address, "demo")
    assert connector.routing.send_to == (demo.SEND_TO,)
    assert tomllib.loads(world.config.read_text(encoding="utf-8"))["connector"]["demo"]["server_copy"] == {
        "leave_copy": True
    }


def test_a_pass_that_fails_is_told(world: demo.World) -> None:
    world.config.write_text("no TOML", encoding="utf-8")
    with pytest.raises(PoprepError, match="the first pass ended with exit code"):
        demo.run_poll(world, "first")


def test_the_whole_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        PROGRAM, env=environment(tmp_path), capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 6 messages arrived octet by octet" in done.stdout
    assert "Nothing arrived twice" in done.stdout
    assert 'password = "********"' in done.stdout
    assert "poprep config check" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="a Ctrl-C can't be sent to one process on Windows")
def test_the_servers_stay_until_ctrl_c(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "--keep"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as running:
        assert running.stdout is not None
        told = ""
        for line in running.stdout:
            told += line
            if "As if for the first time" in line:
                break
        assert "The servers stay until Ctrl-C" in told
        (folder,) = tmp_path.iterdir()
        assert len(list((folder / "delivered").glob("*.eml"))) == 6
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait(20) == 0
    assert "stopped" in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="a Ctrl-C can't be sent to one process on Windows")
def test_ctrl_c_in_the_middle_cleans_up(tmp_path: Path) -> None:
    command = subprocess.Popen(PROGRAM, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with command as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith(b"First pass"):
                break
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait(20) == ExitCode.INTERRUPTED
    assert b"Second pass" not in rest
    assert list(tmp_path.iterdir()) == []
