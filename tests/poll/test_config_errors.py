"""A configuration that is wrong ends a pass before anybody is contacted: 78, one sentence for each fault."""

from __future__ import annotations

import os
import sys

import pytest

from tests.poll.world import PASSWORD, World

PASSWORD_LINE = f'password = "{PASSWORD}"'

CHANGES = {
    "syntax": ("[smtp]", "[smtp", "not valid TOML"),
    "unknown-key": ("[smtp]", "[smtp]\nhots = 1", "hots: unknown key"),
    "wrong-type": ("leave_copy = false", 'leave_copy = "no"', "leave_copy"),
    "wrong-value": ('user = "office"', 'user = ""', "pop3.user"),
    "missing-user": ('user = "office"\n', "", "pop3.user: missing"),
    "missing-password": (f"{PASSWORD_LINE}\n", "", "pop3.password: missing"),
    "bad-recipient": ('"office@corp.example"', '"not an address"', "send_to"),
    "no-such-method": ('user = "office"', 'user = "office"\nauth = ["telepathy"]', "pop3.auth"),
    "no-method": ('user = "office"', 'user = "office"\nauth = []', "pop3.auth"),
    "no-ca-file": ('user = "office"', 'user = "office"\ntls_ca_file = "none.pem"', "tls_ca_file"),
    "secret-env": (PASSWORD_LINE, 'password = { env = "POPREP_TEST_UNSET" }', "POPREP_TEST_UNSET is not set"),
    "secret-file": (PASSWORD_LINE, 'password = { file = "nowhere" }', "nowhere"),
    "secret-command": (PASSWORD_LINE, 'password = { command = "/nonexistent/pass" }', "can't be started"),
    "secret-line-break": (PASSWORD_LINE, r'password = "a\r\nDELE 1"', "line break"),
    "secret-empty": (PASSWORD_LINE, 'password = ""', "password"),
}


@pytest.mark.parametrize(("old", "new", "pattern"), CHANGES.values(), ids=list(CHANGES))
def test_a_wrong_configuration(world: World, old: str, new: str, pattern: str) -> None:
    world.letters(1)
    world.write()
    text = world.config.read_text()
    assert text.count(old) >= 1
    world.config.write_text(text.replace(old, new))
    done = world.poll()
    done.ended(78, pattern)
    untouched(world)


def untouched(world: World) -> None:
    assert world.pop3.sessions == []
    assert world.smtp.sessions == []
    assert world.left == ["u1"]


def test_no_configuration(world: World) -> None:
    world.letters(1)
    world.write()
    world.config.rename(world.folder / "elsewhere.toml")
    world.config.mkdir()
    world.run().ended(78, "poprep.toml: this is a folder")
    world.config.rmdir()
    arguments = world.arguments((), ())
    import subprocess

    done = subprocess.run([sys.executable, "-m", "poprep_cli", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert str(world.config) in done.stderr
    assert "Traceback" not in done.stderr
    untouched(world)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_secret_that_others_can_read(world: World) -> None:
    world.letters(1)
    world.write()
    world.config.chmod(0o644)
    done = world.run()
    done.ended(78, "others can read this file")
    assert f"chmod 600 {world.config}" in done.err
    untouched(world)


def test_one_bad_connector_among_good_ones_is_an_error_of_the_file(world: World) -> None:
    world.letters(1)
    world.more = world.tables("sales").replace("send_to", "sent_to")
    done = world.poll()
    assert done.code == 78
    assert "sent_to" in done.err
    untouched(world)


def test_a_secret_that_fails_concerns_its_connector_only(world: World) -> None:
    world.letters(1)
    world.more = world.tables("sales").replace(PASSWORD_LINE, 'password = { env = "POPREP_TEST_UNSET" }')
    world.poll().ended(78, "sales: connector.sales.pop3.password: .*POPREP_TEST_UNSET")
    assert world.arrived == world.sent
    assert world.left == []


def test_a_name_that_would_be_a_path(world: World) -> None:
    world.letters(1)
    world.more = world.tables('"../x"')
    world.poll().ended(78, 'connector."../x": this is no name for a connector')
    untouched(world)


def test_what_is_missing_and_what_is_wrong_is_all_told(world: World) -> None:
    world.letters(1)
    world.write()
    text = world.config.read_text().replace("leave_copy = false", "leave_copy = 3").replace('user = "office"\n', "")
    world.config.write_text(text)
    done = world.poll()
    assert done.code == 78
    assert "leave_copy" in done.err
    assert "pop3.user: missing" in done.err
    untouched(world)
