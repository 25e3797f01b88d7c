"""`poprep test-auth` against Dovecot: all its methods work, and a wrong password is not tried more often than it must."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.poll.outcome import Done
from tests.real.dovecot import Dovecot

pytestmark = pytest.mark.real

PASSWORD = "tr0ub4dor-and-3"
# A login that failed must not slow down the next one, and the log tells each one.
EXTRA = """\
auth_verbose = yes
auth_debug = no
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
"""
WORKING = ["scram-sha-256", "scram-sha-1", "cram-md5", "apop", "plain", "login", "user"]


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot({"joe": PASSWORD}, extra=EXTRA) as server:
        yield server


def run(dovecot: Dovecot, folder: Path, password: str) -> Done:
    """Run the command on a configuration with everything enabled, over STLS."""
    config = folder / "poprep.toml"
    config.touch(mode=0o600)
    config.write_text(
        f"""\
[smtp]
host = "127.0.0.1"

[connector.office.pop3]
host = "127.0.0.1:{dovecot.port}"
tls = "required"
tls_ca_file = "{dovecot.ca_file}"
user = "joe"
password = "{password}"

[connector.office.routing]
send_to = ["office@corp.example"]
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "poprep_cli", "--config", str(config), "--state-dir", str(folder / "state")]
    ended = subprocess.run([*command, "test-auth", "--json"], capture_output=True, text=True, timeout=60, check=False)
    assert password not in ended.stdout + ended.stderr
    return Done(ended.returncode, ended.stdout, ended.stderr)


def logins(dovecot: Dovecot, pattern: str, count: int) -> int:
    """Return how often the log has a pattern, once it has it `count` times or a moment has passed."""
    end = time.monotonic() + 5
    while (found := len(re.findall(pattern, dovecot.log))) < count and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_all_methods_of_dovecot_work(dovecot: Dovecot, tmp_path: Path) -> None:
    dovecot.deliver("joe", b"Subject: hello\n\nhello\n")
    before = dovecot.left("joe")
    done = run(dovecot, tmp_path, PASSWORD)
    assert done.code == 0, done
    (connector,) = json.loads(done.out)["connectors"]
    assert connector["tls"] is True
    assert connector["poll_uses"] == "scram-sha-256"
    outcomes = {one["method"]: one["result"] for one in connector["methods"]}
    assert [method for method, outcome in outcomes.items() if outcome == "works"] == WORKING
    assert {outcome for method, outcome in outcomes.items() if method not in WORKING} == {"skipped"}
    assert logins(dovecot, r"pop3-login: Info: Login: user=<joe>", len(WORKING)) == len(WORKING)
    assert logins(dovecot, r"Disconnected: Logged out top=0/0, retr=0/0, del=0/1", len(WORKING)) == len(WORKING)
    assert dovecot.left("joe") == before


def test_a_wrong_password_ends_with_the_first_method_that_shows_it(dovecot: Dovecot, tmp_path: Path) -> None:
    done = run(dovecot, tmp_path, "not-that-one")
    assert done.code == 77, done
    (connector,) = json.loads(done.out)["connectors"]
    outcomes = {one["method"]: one["result"] for one in connector["methods"] if one["result"] != "skipped"}
    refused = dict.fromkeys(("scram-sha-256", "scram-sha-1", "cram-md5", "apop", "plain"), "refused")
    assert outcomes == refused | {"login": "not tried", "user": "not tried"}
    assert next(one for one in connector["methods"] if one["method"] == "plain")["why"].startswith("-ERR [AUTH]")
    assert logins(dovecot, r"auth failed, 1 attempts", len(refused)) == len(refused)
    assert not re.search(r"auth failed, [2-9]", dovecot.log)
