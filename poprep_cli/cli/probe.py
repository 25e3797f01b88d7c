"""`poprep probe`: everything that can be seen of a server before a login, and what a poll would make of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import click

from poprep_cli.cli import console, probe_view
from poprep_cli.cli.probe_target import Target, choose
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.cli.signals import Signalled, raising_signals
from poprep_cli.errors import ConnectionFailed, ExitCode, Stopped
from poprep_cli.net.dialogue import SILENT, Dialogue
from poprep_cli.net.probe import probe_pop3
from poprep_cli.net.probe_found import Found, Pop3Found
from poprep_cli.net.probe_smtp import probe_smtp
from poprep_cli.net.stop import Stop

SLICE = 0.2  # seconds: on Windows a wait is not interrupted by Ctrl-C
GRACE = 2.0  # seconds that threads get to notice the stop
PATIENCE = 5  # timeouts of the settings: the whole probe ends after so many,
LEAST = 20.0  # seconds, but not before

_EPILOG = """\b
Examples:
  poprep probe pop.example.net            STLS on port 110, no configuration needed
  poprep probe pop.example.net --ssl      TLS at connect, port 995
  poprep probe 192.0.2.7:1100             another port
  poprep probe office                     a connector: its own settings, and its SMTP server
  poprep probe office --json | jq .pop3.methods
  poprep -vvv probe office                with the dialogue, line by line
"""


@click.command(epilog=_EPILOG, context_settings=CONTEXT)
@click.argument("connector", metavar="CONNECTOR|HOST[:PORT]")
@click.option("--ssl", "at_connect", is_flag=True, help="TLS at connect. Port 995 has it without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with everything.")
@click.pass_obj
def probe(settings: Settings, connector: str, at_connect: bool, as_json: bool) -> int:
    """Find out what a server offers, and whether a poll could log in.

    Shows greeting, CAPA, the AUTH list, TLS and the certificate, a table of every login method with
    why it can or can't be used, and what to put into the configuration. Of a connector the SMTP server
    is looked at, too. No user name and no password is sent, and no secret is read.

    The exit code is 0 if a poll could log in as far as can be seen, 75 if the server is not there,
    76 if its TLS would be refused, 77 if no enabled method is usable.
    """
    target = choose(settings, connector, at_connect=at_connect)
    for warning in target.warnings:
        click.echo(f"poprep: warning: {warning}", err=True)
    say, level = console.sayer(settings, target.connector or str(target.pop3.address)), console.level(settings)
    quiet = settings.quiet or as_json or bool(level)
    probed, signal_code = look(target, quiet=quiet, transcript=lambda name: Dialogue(name, say, level))
    if as_json:
        import msgspec

        document = probe_view.document(probed)
        if signal_code is not None:
            document["exit_code"] = int(signal_code)
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    elif console.on_terminal():
        from rich.console import Console

        probe_view.render(probed, Console(highlight=False))
    else:
        for line in probe_view.plain(probed):
            click.echo(line)
    return signal_code or probed.exit_code


def look(
    target: Target, *, quiet: bool, transcript: Callable[[str], Dialogue] = lambda _: SILENT
) -> tuple[probe_view.Probed, ExitCode | None]:
    """Look at the servers of `target` and return what was found, and the exit code of the signal that cut it short, if one did.

    The network is in threads, so that a signal or the deadline ends the probe at any point, with what was seen so far.
    """
    stop = Stop()
    pop3 = Pop3Found(str(target.pop3.address), ssl=target.pop3.ssl, notes=list(target.notes))
    probed = probe_view.Probed(target, pop3, [])
    free = not target.connector
    jobs: list[Callable[[], None]] = [
        lambda: probe_pop3(target.pop3, stop, pop3, free=free, dialogue=transcript("POP3"))
    ]
    smtp = target.smtp
    timeout = target.pop3.timeout
    if smtp is not None:
        jobs.append(lambda: probe_smtp(smtp, stop, probed.smtp, transcript("SMTP")))
        timeout = max(timeout, smtp.timeout)
    patience = max(PATIENCE * timeout, LEAST)
    work = _Work(jobs)
    signal_code = None
    try:
        with raising_signals() as watch, _status(target, quiet=quiet):
            deadline = time.monotonic() + patience
            work.start()
            while not work.wait(SLICE) and time.monotonic() < deadline:
                watch.check()
    except Signalled as signalled:
        signal_code = signalled.exit_code
    stop.trip()
    work.end(GRACE)
    why = "stopped by a signal" if signal_code is not None else f"given up after {patience:g} s"
    for found in (pop3, *probed.smtp):
        _cut_short(found, why, finished=work.finished)
    return probed, signal_code


def _cut_short(found: Found, why: str, *, finished: bool) -> None:
    """Say of a server that was not looked at to the end why; what a thread still waits for counts for nothing."""
    if isinstance(found.problem, Stopped) or not (finished or found.problem or found.methods):
        found.problem = ConnectionFailed(f"{found.server}: {why}, before everything was seen")


def _status(target: Target, *, quiet: bool) -> AbstractContextManager[object]:
    """Return what shows on a terminal that there is something to wait for."""
    if quiet or not console.on_terminal():
        return nullcontext()
    from rich.console import Console
    from rich.text import Text

    return Console(stderr=True).status(Text(f"probing {target.connector or target.pop3.address}"))


class _Work:
    """Jobs, each in a thread of its own. An error that a job ends with is a bug; `end` raises it.

    Their ends are events: a signal's exception in the midst of Thread.join makes Python take a running thread for ended.
    """

    def __init__(self, jobs: Sequence[Callable[[], None]]) -> None:
        self._errors: list[BaseException] = []
        self._ended = [threading.Event() for _ in jobs]
        self._threads = [
            threading.Thread(target=self._run, args=(job, ended), daemon=True)
            for job, ended in zip(jobs, self._ended, strict=True)
        ]

    def _run(self, job: Callable[[], None], ended: threading.Event) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - it is raised in the main thread
            self._errors.append(error)
        finally:
            ended.set()

    @property
    def finished(self) -> bool:
        """Whether all jobs have ended."""
        return all(ended.is_set() for ended in self._ended)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait so long at most for all of them; return whether they have ended."""
        deadline = time.monotonic() + seconds
        return all(ended.wait(max(deadline - time.monotonic(), 0.0)) for ended in self._ended)

    def end(self, seconds: float) -> None:
        """Wait a last time, and raise what a job ended with."""
        self.wait(seconds)
        if self._errors:
            raise self._errors[0]
