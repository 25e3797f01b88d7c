"""Passes of the program under test, as cron runs them: a configuration, a state folder, and `poll` in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.poll.outcome import Done

CONNECTOR = "office"

_ROOT = Path(__file__).parents[2]

Table = Mapping[str, str | bool | int | list[str]]


class Passes:
    """One connector called "office" with its state folder. `poll` runs a pass and returns when it has ended."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "poprep.toml"
        self.state = folder / "state"

    def configure(
        self, *, pop3: Table, smtp: Table, server_copy: Table | None = None, routing: Table | None = None
    ) -> None:
        """Write the configuration. Mail goes to all@corp.example, if `routing` does not say otherwise."""
        tables: dict[str, Table] = {
            "smtp": smtp,
            f"connector.{CONNECTOR}.pop3": {"user": "joe", "password": "secret", **pop3},
            f"connector.{CONNECTOR}.routing": {"send_to": ["all@corp.example"], **(routing or {})},
            f"connector.{CONNECTOR}.server_copy": server_copy or {},
        }
        # JSON's texts, lists and booleans are TOML's as well.
        lines = []
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        self.config.write_text("\n".join([*lines, ""]), "utf-8")
        self.config.chmod(0o600)

    @property
    def command(self) -> list[str]:
        """The command line of a pass."""
        return [*self._program, "poll"]

    @property
    def _program(self) -> list[str]:
        options = ["--config", str(self.config), "--state-dir", str(self.state)]
        return [sys.executable, "-m", "poprep_cli", *options]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a pass: this one, with the checkout in front of any installed copy."""
        return os.environ | {"PYTHONPATH": str(_ROOT)}

    def start(self) -> subprocess.Popen[bytes]:
        """Start a pass whose output goes nowhere; the caller waits for its end."""
        null = subprocess.DEVNULL
        return subprocess.Popen(self.command, env=self.environment, stdin=null, stdout=null, stderr=null)

    def poll(self) -> None:
        """Run a pass; raise AssertionError unless all was well and nothing was said about it."""
        assert self.finish() == []

    def finish(self) -> list[str]:
        """Run a pass and return what it said on stderr; raise AssertionError unless all was well."""
        done = subprocess.run(
            self.command, env=self.environment, capture_output=True, text=True, check=False, timeout=100
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        return done.stderr.splitlines()

    def run(self, *arguments: str) -> Done:
        """Run a command, such as `badmail list`, and return how it ended, whatever that was."""
        command = [*self._program, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=100)
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def journal(self) -> bytes:
        """The state journal as it is now."""
        file = self.state / f"{CONNECTOR}.jsonl"
        return file.read_bytes() if file.exists() else b""

    @property
    def statuses(self) -> dict[bytes, str]:
        """The last status of each UIDL in the state journal."""
        found = {}
        for text in self.journal.split(b"\n")[:-1]:  # without its LF the last line is not there yet
            line = json.loads(text)
            if "status" not in line:
                continue
            uidl = line["uidl"].encode() if "uidl" in line else base64.b64decode(line["uidl_b64"])
            found[uidl] = line["status"]
        return found

    @property
    def held(self) -> list[bytes]:
        """The messages in the spool."""
        return [path.read_bytes() for path in (self.state / "held").rglob("*.eml")]

    def slips(self, kind: str) -> list[dict[str, Any]]:
        """Return what is noted beside each message in the folder `kind`, "held" or "badmail", oldest first."""
        return [json.loads(path.read_bytes()) for path in sorted((self.state / kind).rglob("*.json"))]
