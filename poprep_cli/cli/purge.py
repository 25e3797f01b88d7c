"""`poprep purge`: deletes from the mailboxes what is due, now."""

from __future__ import annotations

from collections.abc import Sequence

import click

from poprep_cli.cli import console
from poprep_cli.cli.choosing import choose
from poprep_cli.cli.running import run_over
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.config.load import load
from poprep_cli.engine import clock
from poprep_cli.engine.plan import Plan, Step
from poprep_cli.engine.purge import Purge
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.run import Run
from poprep_cli.engine.state import named
from poprep_cli.engine.visit import Surroundings
from poprep_cli.errors import most_severe

MAX_DAYS = 36_500  # as for remove_after_days

_EPILOG = """\b
Examples:
  poprep purge --dry-run            what would be deleted, and why
  poprep purge                      what the rules say is due, of every enabled connector
  poprep purge --older-than 90 office
                                    mail delivered from this mailbox that was first seen 90 days ago
  poprep purge --rejected office    also the server's copies of what is in badmail

\b
Exit codes: 0 all that is due is deleted (also: nothing was due), 1 the server would not
delete some of it, 75 try again later, 77 login failed, 78 configuration.
"""


@click.command(epilog=_EPILOG, context_settings=CONTEXT)
@click.argument("connector", nargs=-1)
@click.option(
    "--older-than",
    type=click.IntRange(0, MAX_DAYS),
    metavar="DAYS",
    help="Delete delivered mail that was first seen so many days ago, whatever leave_copy and remove_after_days say.",
)
@click.option("--rejected", is_flag=True, help="Delete the server's copies of what is in badmail, too.")
@click.option("--dry-run", is_flag=True, help="Log in, list, and say what would be deleted. Nothing is written.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def purge(
    settings: Settings,
    connector: tuple[str, ...],
    older_than: int | None,
    rejected: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Delete from the mailboxes what is due, now; move no mail.

    Logs in to each mailbox, deletes what the [connector.NAME.server_copy] rules say of mail that was delivered, and
    takes leave. Nothing is fetched and no SMTP server is contacted. Mail that was not delivered stays: new, held,
    ignored and oversize.

    When most of the mail becomes due at once, it waits an hour as a poll does, in case the clock is wrong. With
    --older-than it does not: that is an explicit order.
    """
    config = load(settings.config_path)
    chosen = choose(config, connector)
    surroundings = Surroundings(settings.state_path, settings.config_path.absolute(), dry_run=dry_run, due_now=True)
    run, signal_code = run_over(config, chosen, settings, surroundings, Purge(older_than, rejected))
    if as_json:
        console.show_json(run, signal_code, plans=dry_run)
    elif dry_run:
        _show_plans(run)
    elif console.on_terminal() and not settings.quiet:
        _show_summary(run.reports)
    console.tell_problems(run.reports, stopped=signal_code is not None)
    return signal_code or most_severe(report.exit_code for report in run.reports)


def _show_plans(run: Run[ConnectorReport]) -> None:
    """Print a table per connector: the UIDL, the days since it was first seen, the size, and why it would be deleted."""
    for report in run.reports:
        found = run.plans.get(report.connector)
        if found is not None:
            click.echo("\n".join(_table(report, found)))


def _table(report: ConnectorReport, found: Plan) -> list[str]:
    octets = sum(step.listed.size for step in (*found.delete, *found.verify))
    rows = [_row(step, step.reason) for step in found.delete]
    rows += [_row(step, f"{step.reason}; it came short, so a second read has to agree") for step in found.verify]
    lines = [f"{report.connector}: {report.listed} on the server; would delete {len(rows)} ({console.size(octets)})"]
    if not rows:
        return lines
    rows.insert(0, ("UIDL", "AGE", "SIZE", "WHY"))
    width = max(len(row[0]) for row in rows)
    return lines + [f"  {uidl:{width}}  {age:>6}  {size:>9}  {why}" for uidl, age, size, why in rows]


def _row(step: Step, why: str) -> tuple[str, str, str, str]:
    return named(step.listed.uidl), _age(step), console.size(step.listed.size), why


def _age(step: Step) -> str:
    try:
        return f"{(clock.now() - clock.parse(step.first_seen)).days} d"
    except ValueError:
        return "?"


def _show_summary(reports: Sequence[ConnectorReport]) -> None:
    for report in reports:
        click.echo(
            f"{report.connector}: {report.listed} on the server, {report.deleted} deleted from the server, "
            f"{report.seconds:.1f} s"
        )
