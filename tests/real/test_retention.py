"""Retention over simulated weeks with Dovecot, a pass a day by the test clock: every row of the table of rules."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest

from poprep_cli.cli.main import main
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from tests.real.dovecot import Dovecot

pytestmark = pytest.mark.real

START = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)
REFUSED = b"nobody@corp.example"
# Days on which a pass runs, counted from the first: three weeks, a fortnight's gap, ten days more.
DAYS = (*range(21), *range(35, 45))


@dataclass
class Box:
    """A mailbox with its rule, and what should be in it: the day on which each message came and was first seen."""

    name: str
    leave_copy: bool = True
    days: int | None = None
    after_delivered: bool = False
    send_to: str = "all@corp.example"
    kept: dict[str, int] = field(default_factory=dict)

    @property
    def table(self) -> str:
        days = "" if self.days is None else f"remove_after_days = {self.days}"
        return f"""\
leave_copy = {json.dumps(self.leave_copy)}
remove_after_delivered = {json.dumps(self.after_delivered)}
{days}
"""

    def expect(self, today: int) -> None:
        """Forget what a pass on this day should delete, by the table of the rules."""
        if self.send_to == REFUSED.decode():
            return
        at_once = not self.leave_copy or self.after_delivered
        for name, day in list(self.kept.items()):
            by_age = self.days is not None and today - day >= self.days and today > day
            if at_once or by_age:
                del self.kept[name]


COMBINATIONS = [
    Box(
        f"{'keep' if leave_copy else 'move'}-{'x' if days is None else days}-{'now' if after_delivered else 'later'}",
        leave_copy,
        days,
        after_delivered,
    )
    for leave_copy, days, after_delivered in product((False, True), (None, 0, 1, 14), (False, True))
]
REFUSED_BOXES = [
    Box("refused-move", leave_copy=False, send_to=REFUSED.decode()),
    Box("refused-1", days=1, send_to=REFUSED.decode()),
]
BOXES = [*COMBINATIONS, *REFUSED_BOXES]


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot({box.name: "secret" for box in (*BOXES, Box("mass"))}, ssl=False) as server:
        yield server


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer(faults=SmtpFaults(recipients={REFUSED: b"550 5.1.1 no such user\r\n"})) as server:
        yield server


class Weeks:
    """Passes over these mailboxes at times of our choosing, in this process."""

    def __init__(
        self, folder: Path, dovecot: Dovecot, smtp: SmtpServer, boxes: list[Box], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._config, self._state = folder / "poprep.toml", folder / "state"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("POPREP_TESTING", "1")
        tables = [f'[smtp]\nhost = "{smtp.address}"\n[log]\nlevel = 0\n']
        tables += [
            f"""\
[connector.{box.name}.pop3]
host = "127.0.0.1:{dovecot.port}"
user = "{box.name}"
password = "secret"
auth = ["login"]
[connector.{box.name}.routing]
send_to = ["{box.send_to}"]
[connector.{box.name}.server_copy]
{box.table}
"""
            for box in boxes
        ]
        self._config.touch(mode=0o600)
        self._config.write_text("\n".join(tables), "utf-8")

    def run(self, day: float, command: str = "poll", *arguments: str) -> tuple[int, str, str]:
        """Run a command so many days after the first; return its exit code and what it said."""
        self._monkeypatch.setenv("POPREP_TEST_CLOCK", (START + timedelta(days=day)).isoformat())
        options = ["--config", str(self._config), "--state-dir", str(self._state)]
        self._monkeypatch.setattr(sys, "argv", ["poprep", *options, command, *arguments])
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), out.getvalue(), err.getvalue()


def letter(box: Box, day: float, number: int = 0) -> bytes:
    return (
        f"Message-ID: <{box.name}.{day}.{number}@example.net>\nDate: Sun, 1 Nov 2026 06:00:00 +0000\n"
        f"From: ada@example.net\nSubject: {box.name}\n\nDay {day}.\n"
    ).encode()


def test_every_combination_over_weeks(
    tmp_path: Path, dovecot: Dovecot, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    weeks = Weeks(tmp_path, dovecot, smtp, BOXES, monkeypatch)
    for day in DAYS:
        for box in BOXES:
            box.kept[dovecot.deliver(box.name, letter(box, day))] = day
        code, out, err = weeks.run(day)
        assert (code, out) == (1, ""), err  # 1: what was refused is new badmail
        assert all("refused" in line for line in err.splitlines()), err
        for box in BOXES:
            box.expect(day)
            assert dovecot.names(box.name) == set(box.kept), (box.name, day)
    delivered = len(DAYS) * len(COMBINATIONS)
    assert len(smtp.delivered) == delivered
    # Purge finds nothing more, but that for "after 0 days" it is the next pass; by an order it deletes by other days.
    assert weeks.run(DAYS[-1], "purge") == (0, "", "")
    for box in BOXES:
        if box in COMBINATIONS and box.days == 0:
            box.kept.clear()
        assert dovecot.names(box.name) == set(box.kept)
    assert weeks.run(DAYS[-1], "purge", "--older-than", "10") == (0, "", "")
    for box in COMBINATIONS:
        assert dovecot.names(box.name) == {name for name, day in box.kept.items() if DAYS[-1] - day < 10}
    for box in REFUSED_BOXES:
        assert dovecot.names(box.name) == set(box.kept)
    assert weeks.run(DAYS[-1], "purge", "--rejected", "--older-than", "10") == (0, "", "")
    for box in REFUSED_BOXES:
        assert dovecot.names(box.name) == {name for name, day in box.kept.items() if DAYS[-1] - day < 10}
    assert len(smtp.delivered) == delivered


def test_a_mass_that_is_due_at_once_waits_for_a_later_pass(
    tmp_path: Path, dovecot: Dovecot, smtp: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box("mass", days=14)
    weeks = Weeks(tmp_path, dovecot, smtp, [box], monkeypatch)
    for number in range(30):
        dovecot.deliver("mass", letter(box, 0, number))
    for day in range(14):
        assert weeks.run(day) == (0, "", "")
    code, out, err = weeks.run(14)
    assert (code, out) == (0, "")
    assert "30 of 30 kept messages became due at once" in err
    assert "none is deleted before 2026-11-15T07:00:00Z" in err
    assert weeks.run(14 + 0.5 / 24) == (0, "", "")
    assert len(dovecot.names("mass")) == 30
    assert weeks.run(14 + 1 / 24) == (0, "", "")
    assert dovecot.names("mass") == set()
    assert len(smtp.delivered) == 30
