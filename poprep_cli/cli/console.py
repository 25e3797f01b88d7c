"""What a person sees of a pass: live progress and a summary on a terminal, otherwise only what is not well."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from poprep_cli.cli.settings import Settings
from poprep_cli.errors import ExitCode, PoprepError, Stopped, most_severe
from poprep_cli.protocol.wire import printable

if TYPE_CHECKING:
    from poprep_cli.engine.plan import Step
    from poprep_cli.engine.report import ConnectorReport
    from poprep_cli.engine.run import Run

SHOWN = 5  # messages named on stderr per connector; --json has them all


def echo(text: str, *, err: bool = False) -> None:
    """Print a text on stdout, or on stderr: by click, which is loaded when there is something to say, and seldom there is."""
    import click

    click.echo(text, err=err)


def tell(error: PoprepError) -> None:
    """Say on stderr what is wrong and what to do, of an error that is about no connector in particular."""
    echo(f"poprep: {error}", err=True)
    if error.hint:
        echo(f"  {error.hint}", err=True)


def on_terminal() -> bool:
    """Whether a person is watching."""
    return is_terminal(sys.stdout) and is_terminal(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end. A stream that was closed when the process began is None (`poprep poll >&-`)."""
    return stream is not None and stream.isatty()


def level(settings: Settings) -> int:
    """Return the level of what is told on stderr: 1 with -v, 3 with -vv, 4 with -vvv, else 0."""
    return (0, 1, 3, 4)[min(settings.verbosity, 3)]


def sayer(settings: Settings, connector: str) -> Callable[[int, str], None]:
    """Return what prints a text on stderr if it is not above the level."""
    most = level(settings)

    def say(level: int, text: str) -> None:
        if level <= most:
            from datetime import datetime

            echo(f"{datetime.now().astimezone():%H:%M:%S} {connector}: {printable(text)}", err=True)

    return say


def show_json(run: Run[ConnectorReport], signal_code: ExitCode | None, *, plans: bool) -> None:
    """Print the --json document, with what would be done if `plans`."""
    import msgspec

    document = {
        "exit_code": int(signal_code or most_severe(report.exit_code for report in run.reports)),
        "connectors": [report.as_dict() for report in run.reports],
    }
    for connector in document["connectors"]:  # type: ignore[attr-defined]
        found = run.plans.get(connector["connector"])
        if plans and found is not None:
            connector["plan"] = {
                name: [
                    {"uidl": printable(step.listed.uidl), "octets": step.listed.size, "reason": step.reason}
                    | ({"first_seen": step.first_seen} if step.first_seen else {})
                    for step in steps
                ]
                for name, steps in (("fetch", found.fetch), ("delete", found.delete), ("verify", found.verify))
            }
    echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def show_plans(run: Run[ConnectorReport]) -> None:
    """Print what a pass would do."""
    for report in run.reports:
        found = run.plans.get(report.connector)
        if found is None:
            continue
        echo(
            f"{report.connector}: {report.listed} on the server; would fetch {len(found.fetch)} "
            f"({size(sum(step.listed.size for step in found.fetch))}) and delete {len(found.delete)}",
        )
        groups: tuple[tuple[str, Sequence[Step]], ...] = (
            ("fetch", found.fetch),
            ("delete", found.delete),
            ("read again", found.verify),
            ("leave", found.oversize),
        )
        for verb, steps in groups:
            for step in steps:
                echo(f"  {verb:10} {size(step.listed.size):>9}  {printable(step.listed.uidl, 70)}  {step.reason}")


def show_summary(reports: Sequence[ConnectorReport]) -> None:
    """Print a line per connector."""
    for report in reports:
        if report.reason == "not due":
            echo(f"{report.connector}: {'; '.join(report.advice)}")
            continue
        parts = [f"{report.delivered} delivered" + (f" ({size(report.octets)})" if report.octets else "")]
        parts += [
            f"{count} {what}"
            for count, what in (
                (report.held, "held"),
                (report.rejected, "in badmail"),
                (report.deleted, "deleted from the server"),
            )
            if count
        ]
        echo(f"{report.connector}: {report.listed} on the server, {', '.join(parts)}, {report.seconds:.1f} s")
        for note in report.notes:
            echo(f"  {note}")


def tell_problems(reports: Sequence[ConnectorReport], *, stopped: bool) -> None:
    """Say on stderr what is not well, one sentence per matter."""
    if stopped:
        echo("poprep: stopped by a signal; what was accepted is recorded, the rest is still on the server", err=True)
    for report in reports:
        for error in report.errors:
            if isinstance(error, Stopped) and stopped:
                continue
            echo(f"poprep: {report.connector}: {error}", err=True)
            if error.hint:
                echo(f"  {error.hint}", err=True)
        for note in report.messages[:SHOWN]:
            echo(f"poprep: {report.connector}: message {note.uidl}: {note.outcome}: {note.why}", err=True)
        if len(report.messages) > SHOWN:
            echo(f"poprep: {report.connector}: and {len(report.messages) - SHOWN} more; --json has them all", err=True)
        if report.reason != "not due":
            for advice in report.advice:
                echo(f"poprep: {report.connector}: {advice}", err=True)


def watch(run: Run[ConnectorReport]) -> None:
    """Show live progress until the run ends: a line per connector with messages, octets and rate."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f} messages  {task.fields[moved]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks = {report.connector: progress.add_task(report.connector, total=0, moved="") for report in run.reports}
        while not run.wait(0.1):
            for report in run.reports:
                task = progress.tasks[tasks[report.connector]]
                rate = report.octets / task.elapsed if task.elapsed else 0.0
                progress.update(
                    task.id,
                    total=report.new,
                    completed=report.delivered,
                    moved=f"{size(report.octets)}, {size(int(rate))}/s" if report.octets else "done" * report.done,
                )


def size(octets: int) -> str:
    """Return a size for people, in decimal units as mail systems count."""
    amount = float(octets)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
