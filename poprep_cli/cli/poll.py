"""`poprep poll`: one pass over every enabled connector that is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from poprep_cli.cli.passing import JOBS, run_pass
from poprep_cli.cli.settings import CONTEXT, Settings

if TYPE_CHECKING:
    from poprep_cli.engine.shard import Shard

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
    return run_pass(
        settings,
        connector,
        dry_run=dry_run,
        force=force,
        mark_seen=mark_seen,
        rescan=rescan,
        jobs=jobs,
        shard=shard,
        as_json=as_json,
    )


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
