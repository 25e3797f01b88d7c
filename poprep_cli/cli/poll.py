"""`poprep poll`: one pass over every enabled connector that is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from poprep_cli.cli import console
from poprep_cli.cli.choosing import choose
from poprep_cli.cli.running import run_over
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.config.load import load
from poprep_cli.config.model import Connector
from poprep_cli.engine.poll import poll as pass_over
from poprep_cli.engine.visit import Surroundings
from poprep_cli.errors import most_severe

if TYPE_CHECKING:
    from poprep_cli.cli.running import Work
    from poprep_cli.engine.shard import Shard

JOBS = 4  # connectors at a time

_EPILOG = """\b
Examples:
  poprep poll                 every connector that is due: the line for cron
  poprep poll office          this one now, whatever its poll_every says
  poprep poll --dry-run       log in and list, say what would be done, change nothing
  poprep -v poll              tell each message on stderr
  poprep poll --mark-seen office
                              what is in the mailbox now is never forwarded
  poprep poll --rescan office what is in the mailbox now is sent again
"""


@click.command(epilog=_EPILOG, context_settings=CONTEXT)
@click.argument("connector", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Log in, list, and say what would be done. No SMTP, nothing written.")
@click.option(
    "--force",
    is_flag=True,
    help="Poll now, whatever poll_every and LOGIN-DELAY say, and log in even while refused logins make it wait.",
)
@click.option(
    "--mark-seen",
    is_flag=True,
    help="Record what is in the mailbox as ignored: never forwarded nor deleted. Moves no mail.",
)
@click.option(
    "--rescan",
    is_flag=True,
    help="Send again all that is in the mailboxes of the connectors named, whatever is known of it.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=JOBS, show_default=True, help="So many connectors at a time."
)
@click.option(
    "--shard",
    metavar="K/N",
    callback=lambda _context, _option, text: _shard(text),
    help="Only the connectors of shard K of N, K from 0 to N-1; auto/N takes K from the scheduler's environment.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about the pass.")
@click.pass_obj
def poll(
    settings: Settings,
    connector: tuple[str, ...],
    dry_run: bool,
    force: bool,
    mark_seen: bool,
    rescan: bool,
    jobs: int,
    shard: Shard | None,
    as_json: bool,
) -> int:
    """Move new mail from POP3 to SMTP: one pass.

    Fetches what is new in each mailbox, hands it to the SMTP server, then deletes from the mailbox
    what the [connector.NAME.server_copy] rules say. Not on a terminal it is silent when all is well.
    """
    if mark_seen and rescan:
        raise click.UsageError("--mark-seen and --rescan exclude each other")
    if rescan and not connector:
        raise click.UsageError("--rescan sends mail again: name the connectors")
    config = load(settings.config_path)
    chosen = choose(config, connector)
    if shard is not None:
        chosen = [one for one in chosen if shard.has(one.name)]
    if rescan and not settings.quiet:
        _tell_rescan(chosen, dry_run=dry_run)
    surroundings = Surroundings(
        settings.state_path,
        settings.config_path.absolute(),
        dry_run=dry_run,
        due_now=force or bool(connector),
        force=force,
        rescan=rescan,
    )
    work: Work = pass_over
    if mark_seen:
        from poprep_cli.engine.first import mark_seen as work
    live = not as_json and not dry_run
    run, signal_code = run_over(config, chosen, settings, surroundings, work, jobs=jobs, live=live)
    if as_json:
        console.show_json(run, signal_code, plans=dry_run)
    elif dry_run:
        console.show_plans(run)
    elif console.on_terminal() and not settings.quiet and not mark_seen:
        console.show_summary(run.reports)
    console.tell_problems(run.reports, stopped=signal_code is not None)
    return signal_code or most_severe(report.exit_code for report in run.reports)


def _shard(text: str | None) -> Shard | None:
    """Return the shard that the option names. Raises click.BadParameter."""
    if text is None:
        return None
    import os

    from poprep_cli.engine.shard import parse

    try:
        return parse(text, os.environ)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _tell_rescan(chosen: list[Connector], *, dry_run: bool) -> None:
    for one in chosen:
        what = "would be sent" if dry_run else "is sent"
        click.echo(
            f"poprep: {one.name}: all that is in the mailbox {what} again, whatever was delivered before (--rescan)",
            err=True,
        )
