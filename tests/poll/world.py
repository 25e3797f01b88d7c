"""A mailbox, an SMTP server, a configuration and a state folder: `poprep poll` is run on them, and what it left is read."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poprep_cli.cli.main import cli, main
from poprep_cli.embedded.deliveries import without_trace
from poprep_cli.embedded.pop3 import Maildrop, Pop3Faults, Pop3Server
from poprep_cli.embedded.smtp import Delivered, SmtpFaults, SmtpServer
from tests.poll.outcome import PASSWORD, Done, finished

USER = "office"
RECIPIENT = "office@corp.example"
DUPLICATE = b"X-Poprep-Possible-Duplicate: yes\r\n"

assert cli.name  # the group is imported, so that its first use is not the first test's time


def letter(number: int, body: bytes = b"Hello.\r\n") -> bytes:
    """Return a message that differs from those with other numbers."""
    return (
        b"Return-Path: <ada@example.net>\r\nMessage-ID: <%d@example.net>\r\nDate: Mon, 2 Nov 2026 09:00:00 +0000\r\n"
        b"From: Ada <ada@example.net>\r\nTo: office@example.net\r\nSubject: Number %d\r\n\r\n" % (number, number)
    ) + body


@dataclass
class World:
    """Everything that a pass meets. `write` puts the settings into the configuration; it is called by `poll` if need be."""

    folder: Path
    pop3: Pop3Server
    smtp: SmtpServer
    send_to: tuple[str, ...] = (RECIPIENT,)
    leave_copy: bool = False
    pop3_lines: str = ""
    smtp_lines: str = ""
    more: str = ""  # lines at the end of the file: other tables, other connectors
    connector_lines: str = ""
    password: str = PASSWORD
    timeout: float = 1
    sent: list[bytes] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "poprep.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def mail(self, *contents: bytes) -> None:
        """Put messages into the mailbox; their UIDLs are u1, u2 and so on."""
        for content in contents:
            self.sent.append(content)
            self.pop3.maildrop.add(content, b"u%d" % len(self.sent))

    def letters(self, count: int) -> None:
        """Put so many messages into the mailbox."""
        self.mail(*(letter(len(self.sent) + number) for number in range(1, count + 1)))

    def write(self) -> None:
        """Write the configuration."""
        text = f"""\
[smtp]
host = "{self.smtp.address}"
timeout = {self.timeout}
data_timeout = {self.timeout}
{self.smtp_lines}

{self.more}

[connector.office]
{self.connector_lines}

{self.tables("office")}
"""
        self.config.unlink(missing_ok=True)
        self.config.touch(mode=0o600)
        self.config.write_text(text, encoding="utf-8")

    def tables(self, name: str, pop3: Pop3Server | None = None, user: str = USER) -> str:
        """Return the tables of a connector."""
        return f"""\
[connector.{name}.pop3]
host = "{(pop3 or self.pop3).address}"
user = "{user}"
password = "{self.password}"
timeout = {self.timeout}
{self.pop3_lines}
[connector.{name}.server_copy]
leave_copy = {str(self.leave_copy).lower()}
[connector.{name}.routing]
send_to = [{", ".join(f'"{path}"' for path in self.send_to)}]
"""

    def arguments(self, arguments: tuple[str, ...], options: tuple[str, ...], command: str = "poll") -> list[str]:
        """Return the command line after the program's name."""
        return ["--config", str(self.config), "--state-dir", str(self.state), *options, command, *arguments]

    def poll(self, *arguments: str, options: tuple[str, ...] = ()) -> Done:
        """Run a pass in this process: all but the start of an interpreter."""
        return self.command("poll", *arguments, options=options)

    def command(self, name: str, *arguments: str, options: tuple[str, ...] = ()) -> Done:
        """Run a command in this process."""
        if not self.config.exists():
            self.write()
        out, err = io.StringIO(), io.StringIO()
        before = sys.argv
        sys.argv = ["poprep", *self.arguments(arguments, options, name)]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as end:
            return Done(int(end.code or 0), out.getvalue(), err.getvalue())
        finally:
            sys.argv = before
        raise AssertionError("the command did not end with an exit code")

    def start(
        self, *arguments: str, options: tuple[str, ...] = (), preexec: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        """Start the command in a process of its own."""
        if not self.config.exists():
            self.write()
        return subprocess.Popen(
            [sys.executable, "-m", "poprep_cli", *self.arguments(arguments, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            preexec_fn=preexec,  # noqa: PLW1509 - limits of the child; nothing else is done in it
        )

    def run(self, *arguments: str, options: tuple[str, ...] = (), preexec: Callable[[], None] | None = None) -> Done:
        """Run the command in a process of its own, to its end."""
        return finished(self.start(*arguments, options=options, preexec=preexec))

    # ------------------------------------------------------------------ what there is afterwards

    def statuses(self, connector: str = "office") -> dict[str, str]:
        """Return what the journal says of each message, as its last line has it."""
        path = self.state / f"{connector}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = (json.loads(line) for line in lines)
        return {line.get("uidl", line.get("uidl_b64")): line["status"] for line in found if "status" in line}

    def kept(self, store: str, connector: str = "office") -> list[dict[str, Any]]:
        """Return the slips of what is in held/ or badmail/, each with its `content`; every .eml has its .json."""
        folder = self.state / store / connector
        if not folder.exists():
            return []
        slips = []
        for path in sorted(folder.iterdir()):
            assert path.suffix in (".eml", ".json"), path
            if path.suffix == ".json":
                slip: dict[str, Any] = json.loads(path.read_bytes())
                slips.append(slip | {"content": path.with_suffix(".eml").read_bytes()})
        assert len(list(folder.iterdir())) == 2 * len(slips)
        return slips

    @property
    def left(self) -> list[str]:
        """The UIDLs of what is in the mailbox."""
        return [mail.uidl.decode() for mail in self.pop3.maildrop.mail()]

    @property
    def arrived(self) -> list[bytes]:
        """The messages that the SMTP server has, without what poprep put in front."""
        return [content_of(message) for message in self.smtp.delivered]

    def heal(self) -> None:
        """Make both servers flawless."""
        self.pop3.faults = Pop3Faults(hide_read=self.pop3.faults.hide_read)
        self.smtp.faults = SmtpFaults()

    def recovers(self, *, repeated: int = 0, badmail: int = 0, code: int = 0) -> Done:
        """Run a pass with healthy servers and assert that all mail has arrived once and the mailbox is empty.

        `repeated` messages were in doubt: each has arrived at most once more, and the copy says so. `badmail` of them
        were given up, and stay on the server.
        """
        self.heal()
        done = self.poll()
        assert done.code == code, done
        counts = Counter(self.arrived)
        wanted = Counter(self.sent)
        given_up = Counter(slip["content"] for slip in self.kept("badmail"))
        assert sum(given_up.values()) == badmail
        assert set(counts) == set(wanted - given_up)
        extra = counts - wanted
        assert sum(extra.values()) <= repeated
        marked = [message for message in self.smtp.delivered if DUPLICATE in message.content]
        assert len(marked) == repeated
        assert len(self.left) == badmail
        assert self.kept("held") == []
        assert set(self.statuses().values()) <= {"deleted", "badmail"}
        before = len(self.smtp.delivered)
        self.poll().ended(0)
        assert len(self.smtp.delivered) == before
        return done


def settled(world: World, running: subprocess.Popen[str]) -> None:
    """Wait until nothing moves any more: the pass hangs."""
    last, since = -1, time.monotonic()
    end = since + 10
    while time.monotonic() < end:
        assert running.poll() is None, finished(running)
        now = sum(len(session.commands) for session in world.pop3.sessions + world.smtp.sessions)
        now += len(world.smtp.delivered) + 1000 * len(world.pop3.sessions)
        if now != last:
            last, since = now, time.monotonic()
        if world.pop3.sessions and time.monotonic() - since > 0.3:
            return
        time.sleep(0.02)
    raise AssertionError("it never hung")


def content_of(message: Delivered) -> bytes:
    """Return a message as it was before poprep put its lines in front."""
    return without_trace(message.content).removeprefix(DUPLICATE)


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def make(folder: Path) -> World:
    """Return a world whose servers do not run yet."""
    pop3 = Pop3Server(Maildrop(), user=USER, password=PASSWORD)
    return World(folder, pop3, SmtpServer())


POSIX = os.name == "posix"

__all__ = ["DUPLICATE", "PASSWORD", "Done", "Pop3Faults", "SmtpFaults", "World", "finished", "letter"]
