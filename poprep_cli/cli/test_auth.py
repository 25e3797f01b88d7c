"""`poprep test-auth`: which login methods work, each tried on a connection of its own."""

from __future__ import annotations

import sys
from typing import get_args

import click

from poprep_cli.cli import console
from poprep_cli.cli.choosing import choose
from poprep_cli.cli.running import carry_out
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.config.load import load
from poprep_cli.engine.run import Run
from poprep_cli.engine.trial import Wanted, many_logins, try_methods
from poprep_cli.engine.trial_report import TrialReport
from poprep_cli.errors import ExitCode, Stopped, most_severe
from poprep_cli.protocol.sasl.methods import ORDER, SmtpMethod

SLICE = 0.2  # seconds between two looks

_EPILOG = """\b
Examples:
  poprep test-auth office                    every enabled method of this mailbox
  poprep test-auth --method plain office     this one only, enabled or not
  poprep test-auth --smtp office             the login to its SMTP server
  poprep -vvv test-auth office               with the dialogue, secrets masked

\b
Exit codes: 0 a method works for every connector, 77 none does,
75 and 76 the server can't be reached or TLS can't be had.
"""


@click.command("test-auth", epilog=_EPILOG, context_settings=CONTEXT)
@click.argument("connector", nargs=-1)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(ORDER, case_sensitive=False),
    metavar="NAME",
    help="Try this method, enabled or not, instead of those that are enabled. May be given several times.",
)
@click.option("--smtp", is_flag=True, help="Try the login to the SMTP server, not the one to the mailbox.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def test_auth(
    settings: Settings, connector: tuple[str, ...], methods: tuple[str, ...], smtp: bool, as_json: bool
) -> int:
    """Try each enabled login method and say which work.

    Every method gets a connection of its own: it logs in and takes leave. No mail is listed, read or deleted, and
    nothing is remembered. It stops where the server has certainly refused the password itself, lest the account be
    locked.
    """
    wanted = Wanted(settings.state_path, settings.config_path.absolute().parent, _known(methods, smtp=smtp), smtp)
    chosen = choose(load(settings.config_path), connector)
    for one in chosen:
        warning = many_logins(one, wanted)
        if warning:
            click.echo(f"poprep: {one.name}: {warning}", err=True)
    reports = [
        TrialReport(one.name, say=console.sayer(settings, one.name), level=console.level(settings)) for one in chosen
    ]
    run = Run(chosen, reports, lambda one, report, stop: try_methods(one, wanted, report, stop))
    signal_code = carry_out(run, lambda: _show(run, settings))
    _tell(reports, as_json=as_json, signal_code=signal_code)
    return signal_code or most_severe(report.exit_code for report in reports)


def _known(methods: tuple[str, ...], *, smtp: bool) -> tuple[str, ...]:
    """Return the methods once each. Raises click.UsageError for one that SMTP does not have."""
    strange = [method for method in methods if smtp and method not in get_args(SmtpMethod)]
    if strange:
        raise click.UsageError(f"SMTP has no method {strange[0]}; it has: {', '.join(get_args(SmtpMethod))}")
    return tuple(dict.fromkeys(methods))


def _show(run: Run[TrialReport], settings: Settings) -> None:
    """Show on a terminal what is being tried."""
    if not console.on_terminal() or settings.quiet or settings.verbosity:
        return
    from rich.console import Console

    with Console(stderr=True).status("") as spinner:
        while not run.wait(SLICE):
            trying = (f"{report.connector}: trying {report.doing}" for report in run.reports if report.doing)
            spinner.update(next(trying, ""))


def _tell(reports: list[TrialReport], *, as_json: bool, signal_code: ExitCode | None) -> None:
    from poprep_cli.cli import trial_view

    if as_json:
        trial_view.show_json(reports, signal_code or most_severe(report.exit_code for report in reports))
    elif console.is_terminal(sys.stdout):
        from rich.console import Console

        trial_view.render(Console(), reports)
    else:
        for report in reports:
            click.echo("\n".join(trial_view.lines(report)))
    if signal_code is not None:
        click.echo("poprep: stopped by a signal", err=True)
    for report in reports:
        for error in report.errors:
            if isinstance(error, Stopped) and signal_code is not None:
                continue
            click.echo(f"poprep: {report.connector}: {error}", err=True)
            if error.hint:
                click.echo(f"  {error.hint}", err=True)
