"""How a pass ended, as whoever started it sees it: exit code, stdout, stderr."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import Any

PASSWORD = "Tr0ub4dor-and-3"


@dataclass(frozen=True, slots=True)
class Done:
    """How a pass ended: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """What stderr says, matter by matter, without the program's name in front and without the hints."""
        return [line.removeprefix("poprep: ") for line in self.err.splitlines() if line.startswith("poprep: ")]

    @property
    def document(self) -> dict[str, Any]:
        """What --json printed."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def ended(self, code: int, *patterns: str, out: str = "") -> None:
        """Assert the exit code, and that stderr has exactly one sentence for each pattern, in this order."""
        assert self.code == code, self
        assert self.out == out, self
        assert "Traceback" not in self.err
        assert PASSWORD not in self.err
        assert len(self.sentences) == len(patterns), self.err
        for sentence, pattern in zip(self.sentences, patterns, strict=True):
            assert re.search(pattern, sentence), (pattern, sentence)
        hints = [line for line in self.err.splitlines() if not line.startswith("poprep: ")]
        assert all(line.startswith("  ") for line in hints), self.err


def finished(process: subprocess.Popen[str]) -> Done:
    """Wait for a process and return how it ended."""
    out, err = process.communicate(timeout=30)
    return Done(process.returncode, out, err)
