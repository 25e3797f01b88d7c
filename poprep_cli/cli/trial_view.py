"""How `test-auth` shows what it found: a table on a terminal, aligned columns in a pipe, or one JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from poprep_cli.engine.trial_report import Result, TrialReport
from poprep_cli.errors import ExitCode
from poprep_cli.protocol.wire import printable

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"works": "green", "refused": "red", "failed": "red", "skipped": "dim", "not tried": "yellow"}


def show_json(reports: Sequence[TrialReport], exit_code: ExitCode) -> None:
    """Print the --json document."""
    import msgspec

    document = {"exit_code": int(exit_code), "connectors": [report.as_dict() for report in reports]}
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def lines(report: TrialReport) -> Iterator[str]:
    """Yield the results of a connector as plain lines, one per method."""
    yield f"{report.connector}: {_where(report)}"
    rows = [_cells(result) for result in report.results]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for method, outcome, seconds, why in rows:
        yield f"  {method:{widths[0]}}  {outcome:{widths[1]}}  {seconds:>{widths[2]}}  {why}".rstrip()
    yield from (f"  {text}" for text in _conclusions(report))


def render(console: Console, reports: Sequence[TrialReport]) -> None:
    """Print the results as tables on a rich console. Nothing in them is taken for markup."""
    from rich.box import SIMPLE_HEAD
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    for report in reports:
        console.print(Text.assemble((report.connector, "bold"), f": {_where(report)}"))
        if report.results:
            table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
            table.add_column("method", no_wrap=True)
            table.add_column("result", no_wrap=True)
            table.add_column("time", no_wrap=True, justify="right")
            table.add_column("why", overflow="fold")
            for result in report.results:
                method, outcome, seconds, why = _cells(result)
                style = _STYLES[result.outcome]
                name = Text(method, style="bold" if method == report.poll_uses else "")
                table.add_row(name, Text(outcome, style=style), Text(seconds), Text(why))
            console.print(table)
        for text in _conclusions(report):
            console.print(Padding(Text(text), (0, 0, 0, 2)))


def _where(report: TrialReport) -> str:
    encrypted = {None: "", True: ", over TLS", False: ", without TLS"}[report.tls]
    user = f" as {printable(report.user)}" if report.user else ""
    return f"{report.protocol} {report.server}{user}{encrypted}"


def _cells(result: Result) -> tuple[str, str, str, str]:
    seconds = "" if result.seconds is None else f"{result.seconds:.2f} s"
    why = result.why
    if result.outcome == "works":
        why = "" if result.enabled else "not enabled"
    return result.method, result.outcome, seconds, why


def _conclusions(report: TrialReport) -> Iterator[str]:
    if report.poll_uses:
        first = " (remembered from the last one)" if report.remembered == report.poll_uses else ""
        yield f"a poll would log in by {report.poll_uses}{first}"
    yield from report.advice
