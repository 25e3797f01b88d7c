"""Carries `poprep state adopt` out: in a thread, so that the main one is free for signals."""

from __future__ import annotations

import threading
from typing import Any

import click

from poprep_cli.cli import console, state_view
from poprep_cli.cli.settings import Settings
from poprep_cli.cli.signals import Signalled, raising_signals
from poprep_cli.config.model import Connector
from poprep_cli.engine.adopt import adopt_all
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.run import GRACE, bug
from poprep_cli.engine.visit import Surroundings, Visit, told
from poprep_cli.net.stop import Stop

SLICE = 0.5  # seconds: on Windows a wait is not interrupted by Ctrl-C


def carry_out(connector: Connector, settings: Settings) -> dict[str, Any]:
    """Adopt, tell errors, and return the document."""
    report = ConnectorReport(connector.name, say=console.sayer(settings, connector.name), level=console.level(settings))
    stop = Stop()
    counts: dict[str, int] = {}

    def work() -> None:
        try:
            with told(report, stop):
                visit = Visit(
                    connector, Surroundings(settings.state_path, settings.config_path.absolute()), report, stop
                )
                with visit:
                    counts["adopted"], counts["ignored"] = adopt_all(visit)
        except Exception as error:  # noqa: BLE001 - told as what it is
            report.fail(bug(error))

    thread = threading.Thread(target=work, name="adopt", daemon=True)
    signal_code = None
    try:
        with raising_signals() as watch:
            thread.start()
            while thread.is_alive():
                thread.join(SLICE)
                watch.check()
    except Signalled as signalled:
        stop.trip()
        thread.join(GRACE)
        signal_code = signalled.exit_code
        click.echo("poprep: stopped by a signal", err=True)
    for advice in report.advice:
        click.echo(f"poprep: {connector.name}: {advice}", err=True)
    for error in report.errors if signal_code is None else ():
        state_view.tell_error(connector.name, error)
    return {
        "connector": connector.name,
        "exit_code": int(signal_code or report.exit_code),
        "errors": [{"message": str(error), "hint": error.hint} for error in report.errors],
        **({"listed": report.listed, **counts} if counts else {}),
    }
