"""Setting one key: the rest of the file stays, and nothing wrong is ever written."""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poprep_cli.config.edit import holds_secret, set_value
from poprep_cli.config.load import load
from poprep_cli.errors import ConfigError
from tests.config.samples import GOOD, write

posix = pytest.mark.skipif(os.name != "posix", reason="file modes say nothing on Windows")

LAID_OUT = """\
# our mail

[connector.office]          # the office
enabled = true   # for now

[connector.office.pop3]
host = "pop.example.net"    # since 2019
user = 'office'
password = { env = "X" }

# the relay
[smtp]
host = "mail.example.com"

[connector.office.routing]
send_to = ["office@corp.example"]
# the end
"""


def data(path: Path) -> Any:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_only_the_value_changes(tmp_path: Path) -> None:
    path = write(tmp_path, LAID_OUT)
    assert set_value(path, "connector.office.pop3.host", "pop.example.org") == ()
    assert path.read_text() == LAID_OUT.replace("pop.example.net", "pop.example.org")
    assert set_value(path, "connector.office.enabled", "false") == ()
    assert path.read_text() == LAID_OUT.replace("pop.example.net", "pop.example.org").replace("true ", "false ")


def test_a_new_table_goes_to_the_end(tmp_path: Path) -> None:
    path = write(tmp_path, LAID_OUT)
    set_value(path, "connector.office.limits.max_messages", "5")
    assert path.read_text() == LAID_OUT + "\n[connector.office.limits]\nmax_messages = 5\n"


def test_a_key_goes_into_a_table_that_is_only_implied(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    set_value(path, "connector.office.poll_every", "5")
    assert load(path).connectors[0].poll_every == 5


def test_a_key_goes_into_an_inline_table(tmp_path: Path) -> None:
    text = 'smtp = { host = "a" }\n[connector]\nx = { pop3 = { host = "h", user = "u", password = "p" }, routing = { send_to = ["a@b"] } }\n'
    path = write(tmp_path, text)
    set_value(path, "connector.x.pop3.user", "v")
    set_value(path, "connector.x.limits.max_messages", "3")
    connector = load(path).connectors[0]
    assert (connector.pop3.user, connector.limits.max_messages) == ("v", 3)


def test_crlf_stays(tmp_path: Path) -> None:
    path = write(tmp_path, LAID_OUT.replace("\n", "\r\n"))
    set_value(path, "connector.office.pop3.timeout", "5")
    set_value(path, "connector.office.limits.max_messages", "5")
    assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n")
    assert load(path).connectors[0].limits.max_messages == 5


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("connector.office.pop3.user", "12345", "12345"),
        ("connector.office.pop3.user", "true", "true"),
        ("connector.office.pop3.user", '"quoted"', "quoted"),
        ("connector.office.pop3.user", "a, b", "a, b"),
        ("connector.office.pop3.user", 'x" # y', 'x" # y'),
        ("connector.office.pop3.password", "{ command = 'pass x' }", {"command": "pass x"}),
        ("connector.office.pop3.password", "[abc", "[abc"),
        ("connector.office.pop3.auth", "apop,user", ["apop", "user"]),
        ("connector.office.pop3.auth", "apop", ["apop"]),
        ("connector.office.pop3.auth", '["user"]', ["user"]),
        ("connector.office.routing.send_to", "a@b, c@d", ["a@b", "c@d"]),
        ("connector.office.routing.sender", "null", "null"),
        ("connector.office.pop3.timeout", "1.5", 1.5),
        ("connector.office.limits.max_octets", "1_000", 1000),
        ("smtp.host", "a.example", "a.example"),
        ("smtp.host", "a.example,b.example", ["a.example", "b.example"]),
    ],
)
def test_values(tmp_path: Path, key: str, text: str, value: object) -> None:
    path = write(tmp_path, LAID_OUT)
    set_value(path, key, text)
    found: Any = data(path)
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert path.read_text().count("#") >= LAID_OUT.count("#")


def test_a_literal_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, LAID_OUT)
    set_value(path, "connector.office.pop3.password", '{ env = "X" }', literal=True)
    assert data(path)["connector"]["office"]["pop3"]["password"] == '{ env = "X" }'


@pytest.mark.parametrize("key", ['connector."a.b".pop3.host', "connector.a.b.pop3.host", "connector.'a.b'.pop3.host"])
def test_a_name_with_a_dot_with_or_without_quotes(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, LAID_OUT)
    missing = set_value(path, key, "pop.example.org")
    assert data(path)["connector"]["a.b"]["pop3"]["host"] == "pop.example.org"
    assert [each.split(": ")[0] for each in missing] == [
        'connector."a.b".pop3.user',
        'connector."a.b".pop3.password',
        'connector."a.b".routing.send_to',
    ]
    set_value(path, "connector.a.b.enabled", "false")
    assert data(path)["connector"]["a.b"]["enabled"] is False


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("smtp.tls", "on", '"on" is not allowed; allowed: "required", "wanted", "off"'),
        ("smtp.hots", "a", "did you mean host?"),
        ("smtp.timeout", "nan", '"nan" is not allowed'),
        ("smtp.host", "a\nx = 1", "is not allowed"),
        ("smtp", "a", "is no key"),
        ("smtp host", "a", "is no key"),
        ("a = 1\nb.c", "a", "is no key"),
        ("connector.office", "1", "allowed is a table"),
        ("connector.office.pop3.user.name", "1", "connector"),
        ("connector.office.pop3.password.env", "1", "connector"),
        ("connector.o/o.pop3.host", "h", "is no key"),
        ("connector.OFFICE.enabled", "true", "more than case"),
        ("connector.office.enabled.x", "true", "connector"),
        ("smtp.host.x", "true", "can't be set"),
        ("smtp.host", "\udcff", "not UTF-8"),
        ("connector.office.routing.send_to", "a@b, c", "an address"),
    ],
)
def test_nothing_wrong_is_written(tmp_path: Path, key: str, text: str, told: str) -> None:
    path = write(tmp_path, LAID_OUT)
    with pytest.raises(ConfigError) as caught:
        set_value(path, key, text)
    assert told in str(caught.value)
    assert path.read_text() == LAID_OUT
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_toml_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "[smtp\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        set_value(path, "smtp.host", "a")
    assert path.read_text() == "[smtp\n"


def test_a_fault_can_be_mended(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace('"office"', "3"))
    assert set_value(path, "connector.office.pop3.user", "joe") == ()
    assert load(path).connectors[0].pop3.user == "joe"


def test_from_nothing_to_a_whole_configuration(tmp_path: Path) -> None:
    path = tmp_path / "new" / "poprep.toml"
    assert set_value(path, "smtp.host", "mail.example.com") == (
        "there is no connector; each mailbox needs a [connector.NAME] table",
    )
    assert len(set_value(path, "connector.office.pop3.host", "pop.example.net")) == 3
    assert len(set_value(path, "connector.office.pop3.user", "office")) == 2
    assert len(set_value(path, "connector.office.pop3.password", "s3cret-word")) == 1
    assert set_value(path, "connector.office.routing.send_to", "office@corp.example") == ()
    assert path.read_text() == GOOD
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_the_mode_stays(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, LAID_OUT, mode=mode)
    set_value(path, "smtp.timeout", "5")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_no_literal_secret_into_a_file_that_others_can_read(tmp_path: Path) -> None:
    path = write(tmp_path, LAID_OUT, mode=0o644)
    with pytest.raises(ConfigError, match="others can read this file") as caught:
        set_value(path, "connector.office.pop3.password", "s3cret-word")
    assert caught.value.hint == f"chmod 600 {path}"
    assert "s3cret" not in path.read_text() + str(caught.value)


def test_a_link_stays_and_its_target_changes(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("symbolic links need a privilege on Windows")
    (tmp_path / "real").mkdir()
    target = write(tmp_path / "real", LAID_OUT)
    link = tmp_path / "link.toml"
    link.symlink_to(target)
    set_value(link, "smtp.timeout", "5")
    assert link.is_symlink()
    assert data(target)["smtp"]["timeout"] == 5


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is a folder"):
        set_value(tmp_path, "smtp.host", "a")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be written"):
        set_value(tmp_path / "file" / "poprep.toml", "smtp.host", "a")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, LAID_OUT)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device; nothing was changed"):
        set_value(path, "smtp.timeout", "5")
    assert path.read_text() == LAID_OUT
    assert list(tmp_path.iterdir()) == [path]


def test_holds_secret() -> None:
    assert holds_secret("connector.a.b.pop3.password")
    assert not holds_secret("connector.a.pop3.user")
    assert not holds_secret("smtp.nothing")
    assert not holds_secret("log.level.deep")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(["connector.office.pop3.user", "connector.n.pop3.password"]), text=st.text())
def test_any_text_is_set_as_it_is_or_refused(tmp_path: Path, key: str, text: str) -> None:
    path = write(tmp_path, LAID_OUT)
    try:
        set_value(path, key, text, literal=True)
    except ConfigError:
        assert path.read_text() == LAID_OUT
        return
    _, name, table, last = key.split(".")
    assert data(path)["connector"][name][table][last] == text
