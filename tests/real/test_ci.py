"""The check that runs on every change is the one that the README tells people to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real import cyrus, dovecot, private

_ROOT = Path(__file__).parents[2]
_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"


def test_the_check_runs_the_command_of_the_readme() -> None:
    check = (_ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    readme = (_ROOT / "README.md").read_text("utf-8").splitlines()
    assert check[-1] == _COMMAND, "the last command decides the exit code"
    assert readme.count(_COMMAND) == 1


def test_the_check_fails_where_a_server_is_missing() -> None:
    check = _ROOT / ".ci" / "run"
    lines = check.read_text("utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -eu" in lines
    assert "export POPREP_REQUIRE_SERVERS=1" in lines
    assert sys.platform == "win32" or os.access(check, os.X_OK)


def installing() -> str:
    """Return the part of the check that installs what is missing."""
    check = (_ROOT / ".ci" / "run").read_text("utf-8")
    return check[: check.index("export POPREP_REQUIRE_SERVERS=1")]


def test_the_check_unpacks_pop3d_where_the_tests_look_for_it() -> None:
    assert 'POPREP_CYRUS="${POPREP_CYRUS:-/var/lib/poprep-tests/cyrus}"' in installing()
    assert '"$POPREP_CYRUS/pop3d"' in installing()
    expected = os.environ.get("POPREP_CYRUS") or "/var/lib/poprep-tests/cyrus"
    assert Path(expected) / "pop3d" == cyrus.POP3D


@pytest.mark.real
def test_the_check_installs_nothing_where_all_is_there() -> None:
    private.require("bash", "dpkg-query", "dovecot", "postfix", "saslpasswd2", str(cyrus.POP3D), str(dovecot.LMTP))
    script = f"apt-get() {{ exit 9; }}\n{installing()}"
    command = ["bash", "-c", script, str(_ROOT / ".ci" / "run")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.real
def test_the_check_names_what_it_needs_and_must_not_install(tmp_path: Path) -> None:
    private.require("bash", "dpkg-query")
    script = f"id() {{ echo 1000; }}\napt-get() {{ exit 9; }}\n{installing()}"
    command = ["bash", "-c", script, str(_ROOT / ".ci" / "run")]
    environment = os.environ | {"POPREP_CYRUS": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cyrus-common" in done.stderr


def test_a_missing_cyrus_fails_where_servers_are_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cyrus, "POP3D", tmp_path / "pop3d")
    monkeypatch.setenv(private.REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match=private.REQUIRE):
        cyrus.Cyrus()
