"""Configurations that tests start from."""

from __future__ import annotations

from pathlib import Path

GOOD = """\
[smtp]
host = "mail.example.com"

[connector.office.pop3]
host = "pop.example.net"
user = "office"
password = "s3cret-word"

[connector.office.routing]
send_to = ["office@corp.example"]
"""


def write(folder: Path, text: str | bytes, *, mode: int = 0o600) -> Path:
    """Return the path of a new poprep.toml in `folder`."""
    path = folder / "poprep.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def with_pop3(lines: str) -> str:
    """Return GOOD with more lines in [connector.office.pop3]; they start at line 8."""
    return GOOD.replace('password = "s3cret-word"\n', f'password = "s3cret-word"\n{lines}\n')


def with_smtp(lines: str) -> str:
    """Return GOOD with more lines in [smtp]; they start at line 3."""
    return GOOD.replace('host = "mail.example.com"\n', f'host = "mail.example.com"\n{lines}\n')


def without(line: str) -> str:
    """Return GOOD without the lines that start like this."""
    return "".join(each for each in GOOD.splitlines(keepends=True) if not each.startswith(line))
