"""`poprep probe` against a Dovecot: STLS and pop3s, with its certificate trusted and not, and nothing sent but questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.dovecot import Dovecot

pytestmark = pytest.mark.real

EXPECTED = ["scram-sha-256", "scram-sha-1", "cram-md5", "apop", "plain", "login", "user"]
CONFIG = """\
[smtp]
host = "127.0.0.1:1"
timeout = 2
[connector.office.pop3]
host = "localhost:{port}"
{lines}
user = "joe"
password = {{ env = "POPREP_NEVER_SET" }}
[connector.office.routing]
send_to = ["office@corp.example"]
"""


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot() as server:
        yield server


def probe(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "poprep_cli", "--config", str(folder / "poprep.toml"), "probe", "--json"]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    return found


def connector(folder: Path, port: int, lines: str) -> dict[str, Any]:
    config = folder / "poprep.toml"
    config.touch(mode=0o600)
    config.write_text(CONFIG.format(port=port, lines=lines), encoding="utf-8")
    found: dict[str, Any] = probe(folder, "office")["pop3"]
    return found


def usable(pop3: dict[str, Any]) -> list[str]:
    return [one["method"] for one in pop3["methods"] if one["usable"]]


@pytest.mark.parametrize("at_connect", [False, True])
def test_with_tls(dovecot: Dovecot, tmp_path: Path, at_connect: bool) -> None:
    port = dovecot.ssl_port if at_connect else dovecot.port
    lines = f'tls_ca_file = "{dovecot.ca_file}"\n' + ("ssl = true" if at_connect else 'tls = "required"')
    pop3 = connector(tmp_path, port, lines)
    assert pop3["exit_code"] == 0
    assert pop3["method"] == "scram-sha-256"
    assert usable(pop3) == EXPECTED
    assert pop3["tls"]["version"] == "TLS 1.3"
    assert pop3["tls"]["certificate"]["names"] == ["localhost", "127.0.0.1"]
    assert pop3["apop"]
    assert {"UIDL", "TOP", "PIPELINING", "RESP-CODES"} <= set(pop3["secured"]["capabilities"])
    assert sorted(pop3["secured"]["auth"] or [])[:1] in ([], ["CRAM-MD5"])
    if not at_connect:
        assert "STLS" in pop3["clear"]["capabilities"]
        assert pop3["stls"].startswith("+OK")
    assert "auth failed" not in dovecot.log.lower()


@pytest.mark.parametrize("at_connect", [False, True])
def test_a_certificate_that_is_not_trusted(dovecot: Dovecot, tmp_path: Path, at_connect: bool) -> None:
    lines = "ssl = true" if at_connect else 'tls = "required"'
    pop3 = connector(tmp_path, dovecot.ssl_port if at_connect else dovecot.port, lines)
    assert pop3["exit_code"] == 76
    assert "not trusted" in pop3["verdict"]
    assert not pop3["tls"]["trusted"]
    assert usable(pop3) == EXPECTED
    pin = f'tls_fingerprint = "{pop3["tls"]["certificate"]["sha256"]}"'
    assert connector(tmp_path, dovecot.port, f'tls = "required"\n{pin}')["exit_code"] == 0


def test_a_host_and_the_wrong_kind_of_port(dovecot: Dovecot, tmp_path: Path) -> None:
    plain = probe(tmp_path, f"localhost:{dovecot.port}")
    assert plain["exit_code"] == 0
    assert 'auth = ["scram-sha-256", "scram-sha-1", "cram-md5", "apop", "plain", "login", "user"]' in plain["snippet"]
    assert max(map(len, plain["snippet"].splitlines())) <= 90
    wrong = probe(tmp_path, f"localhost:{dovecot.port}", "--ssl")
    assert wrong["exit_code"] == 76
    assert "STLS encrypts" in wrong["pop3"]["hint"]
