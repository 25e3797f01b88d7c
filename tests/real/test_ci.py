"""The check that runs on every change is the one that the README tells people to run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
