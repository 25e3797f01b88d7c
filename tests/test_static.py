"""The linter and the type checker are clean, for this system and for Windows."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "--strict", "poprep_cli"],
        ["mypy", "--strict", "--platform", "win32", "poprep_cli"],
    ],
    ids=" ".join,
)
@pytest.mark.timeout(300)
def test_it_is_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
