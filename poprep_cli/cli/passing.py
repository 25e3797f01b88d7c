"""A pass with what the command line asks for: which connectors, what is done with them, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poprep_cli.cli import console
from poprep_cli.cli.choosing import choose
from poprep_cli.cli.running import run_over
from poprep_cli.cli.settings import Settings
from poprep_cli.config.load import load
from poprep_cli.config.model import Connector
from poprep_cli.engine.poll import poll
from poprep_cli.engine.visit import Surroundings
from poprep_cli.errors import ExitCode, most_severe

if TYPE_CHECKING:
    from poprep_cli.cli.running import Work
    from poprep_cli.engine.shard import Shard

JOBS = 4  # connectors at a time


def run_pass(
    settings: Settings,
    names: tuple[str, ...] = (),
    *,
    dry_run: bool = False,
    force: bool = False,
    mark_seen: bool = False,
    rescan: bool = False,
    jobs: int = JOBS,
    shard: Shard | None = None,
    as_json: bool = False,
) -> ExitCode:
    """Run one pass over the connectors that are named, or all that are enabled and due, and return its exit code.

    The arguments are the options of `poprep poll`. Raises PoprepError before anything is done, and click.UsageError.
    """
    config = load(settings.config_path)
    chosen = choose(config, names)
    if shard is not None:
        chosen = [one for one in chosen if shard.has(one.name)]
    if rescan and not settings.quiet:
        _tell_rescan(chosen, dry_run=dry_run)
    surroundings = Surroundings(
        settings.state_path,
        settings.config_path.absolute(),
        dry_run=dry_run,
        due_now=force or bool(names),
        force=force,
        rescan=rescan,
    )
    work: Work = poll
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


def _tell_rescan(chosen: list[Connector], *, dry_run: bool) -> None:
    for one in chosen:
        what = "would be sent" if dry_run else "is sent"
        console.echo(
            f"poprep: {one.name}: all that is in the mailbox {what} again, whatever was delivered before (--rescan)",
            err=True,
        )
