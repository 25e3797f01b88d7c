"""`poprep demo`: the real program over an embedded mailbox and SMTP server on loopback, and a check of what arrived."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from textwrap import indent
from typing import NoReturn

import click

from poprep_cli.cli.settings import CONTEXT
from poprep_cli.embedded.deliveries import without_trace
from poprep_cli.embedded.pop3 import Maildrop, Pop3Server
from poprep_cli.embedded.samples import samples
from poprep_cli.embedded.smtp import SmtpServer
from poprep_cli.errors import ExitCode, PoprepError, StateError

USER = "demo"
SEND_TO = "you@example.com"
_MASK = "********"

_CHANGES = """\
  [connector.NAME.pop3]     host = "pop.example.net"     TLS is required then; for port 995: ssl = true
                            user = "office@example.net"
                            password = { command = "pass show mail/office" }
                                    or { env = "NAME" }, { file = "PATH" }, { keyring = "SERVICE" }
  [connector.NAME.routing]  send_to = ["office@corp.example"]
  [smtp]                    host = "mail.corp.example"
  and drop both tls lines and helo."""
_COMMANDS = """\
  poprep config path        where the configuration belongs
  poprep config check       whether it is right
  poprep poll --dry-run     log in, list, and say what would be done"""


@dataclass(frozen=True, slots=True)
class World:
    """The embedded servers of one demo, and the temporary folder for its configuration, state and delivered mail."""

    folder: Path
    pop3: Pop3Server
    smtp: SmtpServer

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "poprep.toml"

    @property
    def arguments(self) -> list[str]:
        """The global options that make the program work in this world."""
        return ["--config", str(self.config), "--state-dir", str(self.folder / "state")]


@click.command(
    epilog="""\b
Examples:
  poprep demo           two passes, a check, and the configuration to start from
  poprep demo --keep    the same, and then the servers stay for you to play with
""",
    context_settings=CONTEXT,
)
@click.option("--keep", is_flag=True, help="Leave the servers running afterwards, until Ctrl-C.")
def demo(*, keep: bool) -> None:
    """See it work, with nothing to set up.

    Starts a POP3 mailbox with sample mail and an SMTP server, both on this machine only and in a temporary folder, runs
    `poprep poll` over them twice, and checks that every message arrived, octet by octet, and none twice.
    """
    try:
        _run(keep=keep)
    except BrokenPipeError:
        raise  # the reader of our output has gone: click's matter
    except OSError as error:
        hint = "It needs a folder for temporary files and the address 127.0.0.1."
        raise StateError(f"the demo can't run: {error}", hint=hint) from error


def _run(*, keep: bool) -> None:
    with _world() as world:
        _heading("A mailbox and an SMTP server on this machine")
        click.echo(f"  POP3 {world.pop3.address}: {len(world.pop3.maildrop.mail())} sample messages")
        click.echo(f"  SMTP {world.smtp.address}: accepts everything, sends nothing on")
        _heading("First pass: poprep -v poll")
        run_poll(world, "first")
        report_arrivals(world)
        _heading("Second pass: the mail is still in the mailbox")
        run_poll(world, "second")
        report_no_repeats(world)
        _show_configuration(world)
        _show_next_steps()
        if keep:
            try:
                _wait(world)
            except KeyboardInterrupt:
                click.echo("\nThe servers are stopped, and the folder is removed.")


@contextmanager
def _world() -> Iterator[World]:
    """Yield running servers in a temporary folder that nobody else can read; all is gone afterwards."""
    from secrets import token_urlsafe
    from tempfile import TemporaryDirectory

    maildrop = Maildrop()
    for content in samples():
        maildrop.add(content)
    with TemporaryDirectory(prefix="poprep-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        delivered = folder / "delivered"
        delivered.mkdir()
        pop3 = Pop3Server(maildrop, user=USER, password=token_urlsafe(18))
        with pop3, SmtpServer(folder=delivered) as smtp:
            world = World(folder, pop3, smtp)
            write_private(world.config, configuration(world, pop3.password.decode()))
            yield world


def configuration(world: World, password: str) -> str:
    """Return the text of a poprep.toml for the embedded servers."""
    return f"""\
[smtp]                              # where mail goes
host = "{world.smtp.address}"
tls = "off"                         # this machine only; "required" is the default elsewhere
helo = "localhost"

[connector.demo.pop3]               # where mail comes from
host = "{world.pop3.address}"
tls = "off"
user = "{world.pop3.user.decode()}"
password = "{password}"

[connector.demo.server_copy]
leave_copy = true                   # the default: nothing is deleted from the mailbox

[connector.demo.routing]
send_to = ["{SEND_TO}"]
"""


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner can read, from its first octet on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def run_poll(world: World, which: str) -> None:
    """Run one pass of the real program. Raises PoprepError if it ends with anything but exit code 0."""
    import subprocess

    command = [sys.executable, "-m", "poprep_cli", *world.arguments, "-v", "poll"]
    code = subprocess.run(command, check=False).returncode  # noqa: S603 - our own program
    if code in (ExitCode.INTERRUPTED, -2):  # Ctrl-C reached it and not us
        raise KeyboardInterrupt
    if code != ExitCode.OK:
        raise _failure(f"the {which} pass ended with exit code {code} instead of 0")


def report_arrivals(world: World) -> None:
    """Tell what arrived. Raises PoprepError unless that is all the mail of the mailbox, once each and unaltered."""
    _heading("What arrived")
    expected = {sha256(mail.content).hexdigest() for mail in world.pop3.maildrop.mail()}
    arrived = []
    for number, message in enumerate(tuple(world.smtp.delivered), 1):
        digest = sha256(without_trace(message.content)).hexdigest()
        verdict = f"sha256 {digest[:12]} as in the mailbox" if digest in expected else "NOT as in the mailbox"
        click.echo(f"  {number}  {message.size:>9,} octets  {message.subject:<28}  {verdict}")
        arrived.append(digest)
        if message.forward_paths != (SEND_TO.encode(),):
            raise _failure(f"message {number} arrived for somebody else than {SEND_TO}")
    if set(arrived) != expected or len(arrived) != len(expected):
        raise _failure(f"{len(expected)} messages were in the mailbox, and {len(arrived)} arrived, not all the same")
    told = f"All {len(arrived)} messages arrived octet by octet; only our Received: line is in front of them."
    click.secho(f"  {told}", fg="green")


def report_no_repeats(world: World) -> None:
    """Tell that the second pass moved nothing. Raises PoprepError if it did, or if the mailbox has lost mail."""
    kept = world.pop3.maildrop.mail()
    arrived = world.smtp.delivered
    if len(arrived) != len(kept):
        raise _failure(
            f"after the second pass {len(arrived)} messages have arrived, and {len(kept)} are in the mailbox"
        )
    click.secho(
        f"  Nothing arrived twice: the mailbox has kept its {len(kept)} messages, and none was sent again.", fg="green"
    )


def _show_configuration(world: World) -> None:
    _heading("The configuration of both passes")
    click.echo(indent(configuration(world, _MASK), "  "), nl=False)
    click.echo(f"  ({_MASK} was a random password, made for this demo only)")


def _show_next_steps() -> None:
    import shutil

    _heading("For a real mailbox, change")
    click.echo(_CHANGES)
    _heading("Then")
    click.echo(_COMMANDS)
    program = shutil.which("poprep") or "poprep"
    if sys.platform == "win32":
        click.echo(f'  schtasks /create /tn poprep /sc minute /mo 5 /tr "\\"{program}\\" poll"')
    else:
        click.echo(f"  */5 * * * * {program} poll     in your crontab: crontab -e")


def _wait(world: World) -> NoReturn:
    """Tell how to play with the servers, and wait for Ctrl-C."""
    program = "poprep " + _command_line(world.arguments)
    _heading("The servers stay until Ctrl-C")
    click.echo(f"  POP3 {world.pop3.address}   user {USER}   password {world.pop3.password.decode()}")
    click.echo(f"  SMTP {world.smtp.address}")
    click.echo(f"  Delivered mail, as .eml files: {world.folder / 'delivered'}")
    click.echo(f"  Once more:                     {program} -v poll")
    click.echo(f"  What would be done:            {program} poll --dry-run")
    click.echo(f"  The configuration, checked:    {program} config check")
    click.echo(f"  As if for the first time:      delete {world.folder / 'state'}")
    while True:
        time.sleep(3600)


def _command_line(arguments: list[str]) -> str:
    """Return arguments as they are typed into this platform's shell."""
    if sys.platform == "win32":
        import subprocess

        return subprocess.list2cmdline(arguments)
    import shlex

    return shlex.join(arguments)


def _heading(text: str) -> None:
    click.echo("\n" + click.style(text, bold=True))


def _failure(message: str) -> PoprepError:
    return PoprepError(
        f"the demo failed: {message}", hint="This is a bug of poprep: please report it with the output above."
    )
