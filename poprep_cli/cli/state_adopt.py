"""Carries `poprep state adopt` out, as a run over one connector."""

from __future__ import annotations

from typing import Any

import click

from poprep_cli.cli import state_view
from poprep_cli.cli.running import run_over
from poprep_cli.cli.settings import Settings
from poprep_cli.config.model import Config, Connector
from poprep_cli.engine.adopt import adopt_all
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.visit import Surroundings, Visit, told
from poprep_cli.net.stop import Stop


def carry_out(config: Config, connector: Connector, settings: Settings) -> dict[str, Any]:
    """Adopt, tell errors, and return the document."""
    counts: dict[str, int] = {}

    def work(one: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> None:
        with told(report, stop), Visit(one, surroundings, report, stop) as visit:
            counts["adopted"], counts["ignored"] = adopt_all(visit)

    surroundings = Surroundings(settings.state_path, settings.config_path.absolute())
    run, signal_code = run_over(config, (connector,), settings, surroundings, work)
    (report,) = run.reports
    if signal_code is not None:
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
