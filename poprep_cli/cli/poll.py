"""`poprep poll`: one pass over every enabled connector that is due."""

from __future__ import annotations

import click

from poprep_cli.cli import console
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.cli.signals import Signalled, raising_signals
from poprep_cli.config.load import load
from poprep_cli.config.model import Config, Connector
from poprep_cli.engine.poll import Surroundings
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.run import Run
from poprep_cli.errors import ConfigError, ExitCode, most_severe

SLICE = 0.5  # seconds: on Windows a wait is not interrupted by Ctrl-C

_EPILOG = """\b
Examples:
  poprep poll                 every connector that is due: the line for cron
  poprep poll office          this one now, whatever its poll_every says
  poprep poll --dry-run       log in and list, say what would be done, change nothing
  poprep -v poll              tell each message on stderr
"""


@click.command(epilog=_EPILOG, context_settings=CONTEXT)
@click.argument("connector", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Log in, list, and say what would be done. No SMTP, nothing written.")
@click.option("--force", is_flag=True, help="Poll now, whatever poll_every says.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document about the pass.")
@click.pass_obj
def poll(settings: Settings, connector: tuple[str, ...], dry_run: bool, force: bool, as_json: bool) -> int:
    """Move new mail from POP3 to SMTP: one pass.

    Fetches what is new in each mailbox, hands it to the SMTP server, then deletes from the mailbox
    what the [connector.NAME.server_copy] rules say. Not on a terminal it is silent when all is well.
    """
    config = load(settings.config_path)
    chosen = choose(config, connector)
    reports = [ConnectorReport(one.name, say=console.sayer(settings, one.name)) for one in chosen]
    surroundings = Surroundings(
        settings.state_path,
        settings.config_path.absolute().parent,
        dry_run=dry_run,
        due_now=force or bool(connector),
    )
    run = Run(chosen, surroundings, reports)
    signal_code = _carry_out(run, settings, live=not as_json and not dry_run)
    if as_json:
        console.show_json(run, signal_code, plans=dry_run)
    elif dry_run:
        console.show_plans(run)
    elif console.on_terminal() and not settings.quiet:
        console.show_summary(reports)
    console.tell_problems(reports, stopped=signal_code is not None)
    return signal_code or most_severe(report.exit_code for report in reports)


def choose(config: Config, names: tuple[str, ...]) -> list[Connector]:
    """Return the connectors that are named, or all that are enabled.

    Raises click.UsageError for an unknown name, ConfigError for one that is switched off.
    """
    if not names:
        return [one for one in config.connectors if one.enabled]
    known = {one.name.lower(): one for one in config.connectors}
    chosen = []
    for name in {name.lower(): name for name in names}.values():
        one = known.get(name.lower())
        if one is None:
            raise click.UsageError(
                f"there is no connector {name!r} in {config.path}; there are: {', '.join(sorted(known))}"
            )
        if not one.enabled:
            raise ConfigError(
                f"{config.path}: connector.{one.name} is switched off", hint="set its enabled = true to poll it"
            )
        chosen.append(one)
    return chosen


def _carry_out(run: Run, settings: Settings, *, live: bool) -> ExitCode | None:
    """Wait for the run, with a live display on a terminal. Return the exit code of the signal that ended it, if one did."""
    try:
        with raising_signals() as watch:
            run.start()
            if live and console.on_terminal() and not settings.quiet and not settings.verbosity:
                console.watch(run)
            while not run.wait(SLICE):
                watch.check()
    except Signalled as signalled:
        run.abort()
        return signalled.exit_code
    return None
