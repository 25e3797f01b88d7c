"""Runs over connectors as every command makes them: reports that say things, the log beside them, signals minded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from poprep_cli.cli import console
from poprep_cli.cli.settings import Settings
from poprep_cli.cli.signals import Signalled, raising_signals
from poprep_cli.config.model import Config, Connector
from poprep_cli.engine.log import Log
from poprep_cli.engine.plan import Plan
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.run import R, Run
from poprep_cli.engine.visit import Surroundings
from poprep_cli.errors import ExitCode, StateError
from poprep_cli.net.stop import Stop

Work = Callable[[Connector, Surroundings, ConnectorReport, Stop], Plan | None]

SLICE = 0.5  # seconds: on Windows a wait is not interrupted by Ctrl-C


def run_over(
    config: Config,
    connectors: Sequence[Connector],
    settings: Settings,
    surroundings: Surroundings,
    work: Work,
    *,
    jobs: int = 1,
    live: bool = False,
) -> tuple[Run[ConnectorReport], ExitCode | None]:
    """Do the work over the connectors and return the run, and the exit code of the signal that ended it, if one did.

    What the log could not take is told. With `live` there is a display on a terminal. A dry run is not logged.
    """
    log = open_log(config, settings.state_path) if not surroundings.dry_run else Log(0, settings.state_path, 0)
    reports = [_report(one.name, settings, log) for one in connectors]
    run = Run(connectors, reports, lambda one, report, stop: work(one, surroundings, report, stop), jobs)
    watched = live and console.on_terminal() and not settings.quiet and not settings.verbosity
    signal_code = carry_out(run, lambda: console.watch(run) if watched else None)
    log.close()
    if log.failure and not any(isinstance(error, StateError) for report in reports for error in report.errors):
        console.echo(f"poprep: {log.failure}", err=True)
    return run, signal_code


def open_log(config: Config, state_dir: Path) -> Log:
    """Return the log that the configuration wants. Its folder and its file are made when the first line is written."""
    level, folder, keep_days = config.log.level, config.log.folder, config.log.keep_days
    return Log(level, Path(folder), keep_days) if folder else Log(level, state_dir / "log", keep_days, state_dir)


def _report(name: str, settings: Settings, log: Log) -> ConnectorReport:
    on_stderr, in_log = console.sayer(settings, name), log.sayer(name)

    def say(level: int, text: str) -> None:
        on_stderr(level, text)
        in_log(level, text)

    return ConnectorReport(name, say=say, level=max(console.level(settings), log.level), log=in_log)


def carry_out(run: Run[R], show: Callable[[], None]) -> ExitCode | None:
    """Wait for the run; `show` may show it until it ends. Return the exit code of the signal that ended it, if one did."""
    try:
        with raising_signals() as watch:
            run.start()
            show()
            while not run.wait(SLICE):
                watch.check()
    except Signalled as signalled:
        run.abort()
        return signalled.exit_code
    return None
