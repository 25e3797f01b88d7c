"""Refused logins are not tried again at each run: passes with a wrong password, as cron sees them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from tests.poll.world import World

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Cron:
    """Runs a pass at given minutes, by the clock that tests may set. The configuration is from an hour before."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self._environment = monkeypatch
        monkeypatch.setenv("POPREP_TESTING", "1")

    def configure(self, minute: float = -60) -> None:
        self.world.write()
        at = (START + timedelta(minutes=minute)).timestamp()
        os.utime(self.world.config, (at, at))

    def at(self, minute: float, *arguments: str):
        self._environment.setenv("POPREP_TEST_CLOCK", (START + timedelta(minutes=minute)).isoformat())
        return self.world.poll(*arguments)

    @property
    def status(self) -> dict:
        return json.loads((self.world.state / "office.status.json").read_bytes())


@pytest.fixture
def cron(world: World, monkeypatch: pytest.MonkeyPatch) -> Cron:
    world.letters(1)
    return Cron(world, monkeypatch)


def connections(world: World) -> int:
    return len(world.pop3.sessions)


def test_pop3(cron: Cron) -> None:
    world = cron.world
    world.password = "not-this-one"
    cron.configure()
    for minute in (0, 1):
        cron.at(minute).ended(77, "refused the login")
    tried = connections(world)
    done = cron.at(2)
    done.ended(77, r"not trying to log in as office at .* before 2026-11-23T12:06:00Z: it was refused 2 times in a row")
    assert "--force" in done.err
    assert connections(world) == tried
    assert cron.at(3, "office").code == 77  # naming it is no --force
    assert cron.at(4, "--dry-run").code == 77
    assert connections(world) == tried
    cron.at(4, "--force").ended(77, "refused the login")
    assert connections(world) > tried
    assert cron.status["pop3_login"]["until"] == "2026-11-23T12:19:00Z"
    cron.at(18).ended(77, "not trying")
    cron.at(19).ended(77, "refused the login")
    world.password = "Tr0ub4dor-and-3"
    cron.configure(21)  # mended: no need to wait
    cron.at(22).ended(0)
    assert "pop3_login" not in cron.status
    assert len(world.arrived) == 1


def test_a_server_that_is_down_makes_no_pause(cron: Cron) -> None:
    world = cron.world
    cron.configure()
    world.pop3.faults = type(world.pop3.faults)(greeting=b"-ERR [SYS/TEMP] later\r\n")
    for minute in range(4):
        assert cron.at(minute).code == 75
    world.heal()
    cron.at(4).ended(0)


def test_smtp(cron: Cron) -> None:
    world = cron.world
    world.smtp.user, world.smtp.password, world.smtp.auth_in_clear = b"relay", b"right", True
    world.smtp_lines = 'user = "relay"\npassword = "wrong"'
    cron.configure()
    for minute in (0, 1):
        assert cron.at(minute).code == 77
    logins = len(world.smtp.sessions)
    done = cron.at(2)
    assert done.code == 77
    assert "not trying to log in as relay" in done.err
    assert len(world.smtp.sessions) == logins
    assert len(world.left) == 1
    world.smtp.password = b"wrong"
    cron.at(6.1)
    assert len(world.arrived) == 1
    assert "smtp_login" not in cron.status
