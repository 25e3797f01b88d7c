"""`poprep config`: check, show, set, path, as people run them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poprep_cli.cli.config import config
from poprep_cli.cli.settings import Settings
from poprep_cli.config.load import load
from poprep_cli.errors import ConfigError, ExitCode
from tests.config.samples import GOOD, with_pop3, write


def run(path: Path, *args: str, given: str | None = None) -> Result:
    settings = Settings(config=path, state_dir=None, verbosity=0, quiet=False)
    return CliRunner().invoke(config, args, obj=settings, input=given)


def refused(result: Result) -> ConfigError:
    assert isinstance(result.exception, ConfigError)
    assert result.stdout == ""
    return result.exception


def test_check_says_one_line(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    result = run(path, "check")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}: ok, 1 connector (0 disabled)\n", "")
    path = write(
        tmp_path, GOOD + GOOD.split("\n", 3)[3].replace("office", "other") + "[connector.other]\nenabled = false\n"
    )
    assert run(path, "check").stdout == f"{path}: ok, 2 connectors (1 disabled)\n"


def test_check_refuses_a_fault(tmp_path: Path) -> None:
    assert "did you mean user?" in str(refused(run(write(tmp_path, with_pop3('usr = "x"')), "check")))


def test_check_warns_of_what_weakens(tmp_path: Path) -> None:
    result = run(write(tmp_path, with_pop3('clear_text = "allow"\ntls_verify = false')), "check")
    assert result.exit_code == 0
    assert result.stderr.count("poprep: warning: connector office: pop3.") == 2


def test_check_tells_all_secrets_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POPREP_WORD", raising=False)
    text = GOOD.replace('"s3cret-word"', '{ env = "POPREP_WORD" }')
    other = text.split("\n", 3)[3].replace("office", "other").replace('env = "POPREP_WORD"', 'file = "none"')
    told = str(refused(run(write(tmp_path, text + other), "check")))
    assert "connector.office.pop3.password: the environment variable POPREP_WORD is not set\n" in told
    assert "connector.other.pop3.password: " in told
    disabled = text + "[connector.office]\nenabled = false\n"
    assert run(write(tmp_path, disabled), "check").exit_code == 0


def test_check_runs_commands_only_when_told_to(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w'); print('s3cret-word')"
    command = ", ".join(f"'''{word}'''" for word in (sys.executable, "-c", code))
    path = write(tmp_path, GOOD.replace('"s3cret-word"', f"{{ command = [{command}] }}"))
    assert run(path, "check").exit_code == 0
    assert not trace.exists()
    result = run(path, "check", "--secrets")
    assert result.exit_code == 0
    assert trace.exists()
    assert "s3cret" not in result.output
    path = write(tmp_path, GOOD.replace('"s3cret-word"', '{ command = "pass \'x" }'))
    assert "can't be split" in str(refused(run(path, "check")))


def test_show_masks_secrets_and_fills_in_defaults(tmp_path: Path) -> None:
    result = run(write(tmp_path, with_pop3("ssl = true")), "show")
    assert "s3cret" not in result.output
    office = tomllib.loads(result.stdout)["connector"]["office"]
    assert office["pop3"]["host"] == "pop.example.net:995"
    assert office["pop3"]["password"] == "********"
    assert office["pop3"]["timeout"] == 60
    assert office["pop3"]["auth"][-2:] == ["login", "user"]
    assert office["smtp"]["host"] == ["mail.example.com:25"]
    assert office["limits"]["max_messages"] == 0
    assert "# tls_ca_file is not set" in result.stdout


def test_what_is_shown_means_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, with_pop3("ssl = true\ntimeout = 1.5").replace("s3cret-word", "********"))
    before = load(path).connectors
    write(tmp_path, run(path, "show").stdout)
    assert load(path).connectors == before


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ('{ env = "NAME" }', '{ env = "NAME" }'),
        ('{ file = "a\\"b" }', '{ file = "a\\"b" }'),
        ('{ keyring = "svc" }', '{ keyring = "svc" }'),
        ('{ command = "echo s3cret-word" }', '{ command = "********" }'),
    ],
)
def test_show_says_where_a_secret_comes_from(tmp_path: Path, source: str, shown: str) -> None:
    assert f"password = {shown}\n" in run(write(tmp_path, GOOD.replace('"s3cret-word"', source)), "show").stdout


def test_show_one_connector(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + GOOD.split("\n", 3)[3].replace("office", "other"))
    shown = tomllib.loads(run(path, "show", "Other").stdout)
    assert list(shown["connector"]) == ["other"]
    unknown = run(path, "show", "nobody")
    assert unknown.exit_code == ExitCode.USAGE
    assert "there are: office, other" in unknown.stderr


def test_set(tmp_path: Path) -> None:
    path = tmp_path / "poprep.toml"
    result = run(path, "set", "smtp.host", "mail.example.com")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("poprep: warning: not complete yet: there is no connector")
    write(tmp_path, GOOD)
    result = run(path, "set", "connector.office.pop3.user", "joe")
    assert (result.exit_code, result.output) == (0, "")
    assert load(path).connectors[0].pop3.user == "joe"
    refused(run(path, "set", "smtp.tls", "never"))


def test_set_reads_a_password_from_standard_input(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    result = run(path, "set", "connector.office.pop3.password", "-", given='{ "new, word\n')
    assert (result.exit_code, result.output) == (0, "")
    assert load(path).connectors[0].pop3.password.value == '{ "new, word'


def test_path(tmp_path: Path) -> None:
    path = tmp_path / "poprep.toml"
    result = run(path, "path")
    assert (result.stdout, result.stderr) == (f"{path}\n", "there is no such file yet\n")
    write(tmp_path, GOOD)
    assert run(path, "path").stderr == "the file exists\n"


@pytest.mark.parametrize("command", ["check", "show", "set"])
def test_help_has_examples(tmp_path: Path, command: str) -> None:
    assert f"poprep config {command}" in run(tmp_path, command, "--help").stdout.split("Examples:")[1]
