"""The command line of a crontab is understood without click, and means what it means to click."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from poprep_cli.cli import poll
from poprep_cli.cli.main import cli
from poprep_cli.cli.settings import Settings
from poprep_cli.cli.unattended import understood
from poprep_cli.errors import ExitCode

UNDERSTOOD = [
    "poll",
    "-q poll",
    "--quiet poll",
    "--config c.toml poll",
    "--config=c.toml --state-dir=s poll",
    "--state-dir s --config c.toml -q poll",
    "--config a.toml --config b.toml poll",
    "--config=a=b poll",
    "--config poll poll",
    "-q -q --state-dir /var/lib/poprep poll",
]
LEFT_TO_CLICK = [
    "",
    "poll office",
    "poll --dry-run",
    "-v poll",
    "-qq poll",
    "--help poll",
    "--version",
    "config check",
    "--config poll",
    "--config= poll",
    "--config -q poll",
    "--config - poll",
    "--config --state-dir poll",
    "--verbose -q poll",
    "-- poll",
    "purge",
]


@pytest.fixture
def by_click(monkeypatch, tmp_path):
    """Return what click makes of a command line: the settings of a pass, None if it is none, or not a bare one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POPREP_CONFIG", raising=False)
    monkeypatch.delenv("POPREP_STATE_DIR", raising=False)
    asked: list[tuple] = []

    def run_pass(settings, names, **options) -> ExitCode:
        asked.append((settings, names, options))
        return ExitCode.OK

    monkeypatch.setattr(poll, "run_pass", run_pass)

    def parsed(words: list[str]) -> Settings | None:
        asked.clear()
        try:
            cli.main(words, prog_name="poprep", standalone_mode=False)
        except click.ClickException:
            return None
        usual = {"dry_run": False, "force": False, "mark_seen": False, "rescan": False, "jobs": 4, "shard": None}
        return asked[0][0] if asked and asked[0][1:] == ((), usual | {"as_json": False}) else None

    return parsed


@pytest.mark.parametrize("line", UNDERSTOOD)
@pytest.mark.parametrize("environment", [{}, {"POPREP_CONFIG": "e.toml", "POPREP_STATE_DIR": ""}])
def test_it_means_what_it_means_to_click(line, environment, by_click, monkeypatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = understood(line.split(), os.environ)
    assert settings is not None
    assert settings == by_click(line.split())


@pytest.mark.parametrize("line", LEFT_TO_CLICK)
def test_anything_else_is_left_to_click(line) -> None:
    assert understood(line.split(), {}) is None


def test_completion_is_left_to_click() -> None:
    assert understood(["poll"], {"_POPREP_COMPLETE": "bash_source"}) is None


def test_what_can_not_be_read_is_left_to_click(tmp_path, by_click, monkeypatch) -> None:
    config = tmp_path / "poprep.toml"
    config.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert understood(["--config", str(config), "poll"], {}) is None
    assert by_click(["--config", str(config), "poll"]) is None


@pytest.mark.parametrize("options", [[], ["-v"]], ids=["without click", "with click"])
def test_what_ends_it_early_is_told_alike(options, tmp_path) -> None:
    command = [sys.executable, "-m", "poprep_cli", *options, "--config", str(tmp_path / "absent.toml"), "poll"]
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": root}, timeout=60
    )
    assert (done.returncode, done.stdout) == (ExitCode.CONFIG, "")
    assert done.stderr.startswith(f"poprep: {tmp_path / 'absent.toml'}: there is no such file\n  --config FILE or")


@pytest.mark.parametrize("options", [[], ["-v"]], ids=["without click", "with click"])
@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr", "stdin stdout stderr"])
def test_streams_may_be_closed(options, closed, tmp_path) -> None:
    """As by `poprep poll >&-`, or under pythonw.exe: Python has None in their place then."""
    config = tmp_path / "poprep.toml"
    config.touch(mode=0o600)
    config.write_text(
        '[smtp]\nhost = "127.0.0.1"\n[connector.office]\nenabled = false\n[connector.office.pop3]\nhost = "127.0.0.1"\n'
        'user = "office"\npassword = "x"\n[connector.office.routing]\nsend_to = ["office@corp.example"]\n',
        encoding="utf-8",
    )
    arguments = ["poprep", *options, "--config", str(config), "--state-dir", str(tmp_path / "state"), "poll"]
    program = (
        f"import sys\nfor name in {closed.split()}: setattr(sys, name, None)\n"
        f"sys.argv = {arguments}\nfrom poprep_cli.__main__ import start\nstart()"
    )
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": root},
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.OK, "", "")
