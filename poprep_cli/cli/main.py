"""The `poprep` command: its global options, its commands loaded by need, and errors turned into exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

from poprep_cli import __version__
from poprep_cli.cli import console
from poprep_cli.cli.settings import CONTEXT, Settings
from poprep_cli.cli.unattended import end_loading
from poprep_cli.errors import ExitCode, PoprepError

_COMMANDS = {
    "poll": ("poprep_cli.cli.poll", "Move new mail from POP3 to SMTP: one pass."),
    "purge": ("poprep_cli.cli.purge", "Delete from the mailboxes what is due, now; move no mail."),
    "badmail": ("poprep_cli.cli.badmail", "Mail that was refused: look at it, send it again, drop it."),
    "held": ("poprep_cli.cli.badmail", "Mail that waits for the SMTP server: look at it, send it now, drop it."),
    "test-auth": ("poprep_cli.cli.test_auth", "Try each login method and say which work."),
    "probe": ("poprep_cli.cli.probe", "Find out what a server offers, and whether a poll could log in."),
    "demo": ("poprep_cli.cli.demo", "See it work on an embedded mailbox, with nothing to set up."),
    "state": ("poprep_cli.cli.state", "Show and change what is known of each message."),
    "config": ("poprep_cli.cli.config", "Check, show and change the configuration."),
}


class _LazyGroup(click.Group):
    """A group that imports a command's module only when that command is used: cron starts `poll` every minute."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        end_loading()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


_EPILOG = """\b
Examples:
  poprep demo                  see it work, nothing to set up
  poprep config check          is the configuration right?
  poprep poll --dry-run        log in, list, and say what would be done
  poprep poll                  one pass over every connector (for cron)
  poprep -v poll office        one connector now, telling what it does

\b
Exit codes: 0 all well (also: no mail), 1 some messages deferred or refused,
75 try again later, 77 login failed, 78 configuration. All are in the docs.
"""


@click.group(cls=_LazyGroup, epilog=_EPILOG, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="poprep", message="%(prog)s %(version)s")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="POPREP_CONFIG",
    metavar="FILE",
    help="The configuration. Default: $POPREP_CONFIG, else poprep.toml in the user's configuration folder.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    envvar="POPREP_STATE_DIR",
    metavar="DIR",
    help="Where state, held mail and badmail are kept. Default: $POPREP_STATE_DIR, else the user's state folder.",
)
@click.option("-v", "--verbose", count=True, help="Tell every step and every message on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on a terminal, and no summary.")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, state_dir: Path | None, verbose: int, quiet: bool) -> None:
    """Download mail from POP3 mailboxes and forward it to an SMTP server.

    Each run is one pass: log in, list, fetch what is new, hand it to SMTP, delete what your rules
    say, and end. Start it from cron, a systemd timer or Task Scheduler. Nothing is deleted from a
    server before the SMTP server has accepted it.
    """
    ctx.obj = Settings(config=config, state_dir=state_dir, verbosity=verbose, quiet=quiet)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        code = cli.main(prog_name="poprep", standalone_mode=False)
    except PoprepError as error:
        console.tell(error)
        code = error.exit_code
    except click.exceptions.Abort:
        code = ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else ExitCode.OK)
