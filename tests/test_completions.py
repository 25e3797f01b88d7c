"""The completion scripts are those of the commands as they are, and shells can use them."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from poprep_cli.cli.main import cli

FOLDER = Path(__file__).parents[1] / "completions"
NAMES = ("poprep.bash", "_poprep", "poprep.fish", "poprep.ps1")
CONFIG = '[smtp]\n[connector.office]\n[connector.office.pop3]\n[connector."joe.doe".pop3]\n# [connector.gone]\n'

in_bash = pytest.mark.skipif(sys.platform == "win32", reason="bash on Windows is another system's, with other paths")


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    scripts: dict[str, str] = runpy.run_path(str(FOLDER / "generate.py"))["scripts"]()
    return scripts


def complete(line: str, config: Path, *, cursor_in_new_word: bool = False) -> list[str]:
    """Return what bash offers at the end of a line, as its completion machinery would ask for it."""
    words = [*line.split(), ""] if cursor_in_new_word else line.split()
    script = f"""
        source {shlex.quote(str(FOLDER / "poprep.bash"))} || exit 9
        function=$(complete -p poprep | sed -E 's/.*-F ([^ ]+) .*/\\1/')
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        "$function" poprep
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = os.environ | {"POPREP_CONFIG": str(config), "LC_ALL": "C"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my poprep.toml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_what_the_generator_writes(name: str, generated: dict[str, str]) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == generated[name], "run: python completions/generate.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_offered(name: str, generated: dict[str, str]) -> None:
    options = ("config", "state-dir", "verbose", "quiet", "dry-run", "force", "json", "keep", "secrets")
    assert [option for option in options if option not in generated[name]] == []
    assert generated[name].isascii(), "Windows PowerShell reads files without a BOM in the system's code page"
    assert not re.search(r"@[A-Z]+@", generated[name]), "a part of the template was not filled in"


@in_bash
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("poprep po", ["poll"]),
        ("poprep poll --d", ["--dry-run"]),
        ("poprep -v poll --f", ["--force"]),
        ("poprep --state-dir poll de", ["demo"]),
        ("poprep --state-dir = config de", ["demo"]),
        ("poprep config s", ["set", "show"]),
        ("poprep config check --s", ["--secrets"]),
        ("poprep --verb", ["--verbose"]),
        ("poprep poll of", ["office"]),
        ("poprep poll office j", ["joe.doe"]),
        ("poprep config show j", ["joe.doe"]),
        ("poprep poll g", []),
    ],
)
def test_bash_completes(line: str, expected: list[str], config: Path) -> None:
    assert complete(line, config) == expected


@in_bash
def test_bash_offers_everything_for_an_empty_word(config: Path) -> None:
    assert complete("poprep", config, cursor_in_new_word=True) == cli.list_commands(click.Context(cli))
    assert complete("poprep poll", config, cursor_in_new_word=True) == ["joe.doe", "office"]
    assert complete("poprep demo", config, cursor_in_new_word=True) == []


@in_bash
def test_bash_reads_the_configuration_that_is_named(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[connector.archive.pop3]\n", encoding="utf-8")
    assert complete(f"poprep --config {other} poll", config, cursor_in_new_word=True) == ["archive"]
    assert complete(f"poprep --config = {other} poll", config, cursor_in_new_word=True) == ["archive"]
    assert complete("poprep poll", tmp_path / "missing.toml", cursor_in_new_word=True) == []


@in_bash
def test_bash_completes_files_and_folders(tmp_path: Path, config: Path) -> None:
    (tmp_path / "some-folder").mkdir()
    (tmp_path / "some-file").touch()
    both = [str(tmp_path / "some-file"), str(tmp_path / "some-folder")]
    assert sorted(complete(f"poprep --config {tmp_path}/some", config)) == both
    assert complete(f"poprep --state-dir {tmp_path}/some", config) == both[1:]


@pytest.mark.parametrize(("shell", "name"), [("bash", "poprep.bash"), ("zsh", "_poprep"), ("fish", "poprep.fish")])
def test_the_syntax_is_right(shell: str, name: str) -> None:
    if sys.platform == "win32" or shutil.which(shell) is None:
        pytest.skip(f"needs {shell}, not installed here")
    done = subprocess.run([shell, "-n", FOLDER / name], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
