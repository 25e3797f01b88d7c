"""Makes the pictures of docs/images: `probe` and `test-auth` as a person sees them, from a real Dovecot and a real Cyrus.

Started by hand, as root, where the tests of tests/real find their servers: PYTHONPATH=. python docs/screenshots.py
"""

# ruff: noqa: INP001 - a script beside the documents that it illustrates

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partialmethod
from pathlib import Path

import trustme
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from poprep_cli.cli import probe, probe_view, trial_view
from poprep_cli.cli.probe_target import choose
from poprep_cli.cli.settings import Settings
from poprep_cli.config.load import load
from poprep_cli.engine.trial import Wanted, try_methods
from poprep_cli.engine.trial_report import TrialReport
from poprep_cli.net import tls
from poprep_cli.net.stop import Stop
from tests.real import cyrus, dovecot
from tests.real.cyrus import Cyrus
from tests.real.dovecot import Dovecot

IMAGES = Path(__file__).parent / "images"
WIDTH = 96  # columns: what a page shows without making it small
PORTS = (110, 995)
FREE_PORTS = (1110, 1995)  # Cyrus is not root any more when it opens them
USERS = {"joe": "tr0ub4dor-and-3"}
# Without the fonts from elsewhere: a picture in the documentation asks nobody for anything.
FORMAT = re.sub(r"@font-face \{\{.*?\}}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
CONFIG = """\
[smtp]
host = "localhost"
[connector.office.pop3]
host = "{host}"
tls = "required"
user = "joe"
password = "tr0ub4dor-and-3"
[connector.office.routing]
send_to = ["joe@corp.example"]
"""


def main() -> None:
    """Make all of them."""
    IMAGES.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    names = {"organization_name": "Example Mail"}
    trustme.CA.__init__ = partialmethod(trustme.CA.__init__, **names)
    dates = {"not_before": now - timedelta(days=7), "not_after": now + timedelta(days=83, hours=1)}
    trustme.CA.issue_cert = partialmethod(trustme.CA.issue_cert, **names, **dates)
    with fixed_ports(PORTS), Dovecot(USERS) as server:
        make_both("dovecot", server.ca_file, "localhost")
    with fixed_ports(FREE_PORTS), Cyrus(USERS) as other:
        make_both("cyrus", other.ca_file, f"localhost:{other.port}")


def make_both(name: str, ca_file: Path, host: str) -> None:
    """Make the two pictures of one server, whose certificate is trusted."""
    os.environ["SSL_CERT_FILE"] = str(ca_file)
    tls._make.cache_clear()  # or the first server's authority stays the trusted one
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "poprep.toml")
        config.touch(mode=0o600)
        config.write_text(CONFIG.format(host=host), "ascii")
        settings = Settings(config=config, state_dir=Path(folder, "state"), verbosity=0, quiet=True)
        picture(f"probe-{name}", f"poprep probe {host}", lambda console: show_probe(settings, host, console))
        picture(f"test-auth-{name}", "poprep test-auth office", lambda console: show_trial(settings, console))


def show_probe(settings: Settings, host: str, console: Console) -> None:
    """Look at the server and print what the command prints."""
    probed, _ = probe.look(choose(settings, host, at_connect=False), quiet=True)
    probe_view.render(probed, console)


def show_trial(settings: Settings, console: Console) -> None:
    """Try all methods and print what the command prints."""
    chosen = load(settings.config_path).connectors
    reports = [TrialReport(one.name) for one in chosen]
    wanted = Wanted(settings.state_path, settings.config_path.parent, (), smtp=False)
    for one, report in zip(chosen, reports, strict=True):
        try_methods(one, wanted, report, Stop())
    trial_view.render(console, reports)


def picture(name: str, command: str, show: Callable[[Console], None]) -> None:
    """Write a picture of a terminal in which the command has run."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(
            record=True, width=WIDTH, file=nowhere, highlight=False, force_terminal=True, color_system="truecolor"
        )
        console.print(f"$ [bold]{command}[/]")
        show(console)
        svg = console.export_svg(title=command, code_format=FORMAT, unique_id=name)
    (IMAGES / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", "utf-8")


@contextmanager
def fixed_ports(ports: tuple[int, ...]) -> Iterator[None]:
    """Let the private servers use ports that are the same each time."""
    before = dovecot.free_port
    numbers = iter(ports)
    try:
        dovecot.free_port = cyrus.free_port = numbers.__next__
        yield
    finally:
        dovecot.free_port = cyrus.free_port = before


if __name__ == "__main__":
    main()
