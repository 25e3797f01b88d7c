"""How a probe is shown: tables with colours on a terminal or for an SVG, aligned lines in a pipe, or one JSON document."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poprep_cli.cli import probe_text as words
from poprep_cli.cli.probe_snippet import snippet
from poprep_cli.cli.probe_target import Target
from poprep_cli.errors import ExitCode, most_severe
from poprep_cli.net.probe_found import Answers, Found, Method, Pop3Found, SmtpFound, TlsFound
from poprep_cli.net.probe_smtp import smtp_exit_code

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80  # columns in a pipe
LABEL = 14
VALUE = 2000  # characters shown of one value; --json has more

_HEADER = ("method", "announced by", "enabled", "order", "verdict")
_WIDTHS = (18, 18, 7, 5)
_NOTHING = "Nothing needs to change in the configuration."
_SUGGESTED = "Suggested configuration:"
_BETTER = "Better in the configuration:"


@dataclass(frozen=True, slots=True)
class Probed:
    """A target and what was found: its POP3 server, and for a connector its SMTP servers."""

    target: Target
    pop3: Pop3Found
    smtp: list[SmtpFound]

    @property
    def exit_code(self) -> ExitCode:
        """What a pass would end with, as far as can be seen before a login; 0 if it would go on."""
        return most_severe((self.pop3.exit_code, smtp_exit_code(self.smtp)))

    @property
    def servers(self) -> Iterator[tuple[Found, str, words.Rows]]:
        """Each server with its verdict and its details."""
        yield self.pop3, words.pop3_verdict(self.pop3), words.pop3_rows(self.pop3)
        for one in self.smtp:
            yield one, words.smtp_verdict(one), words.smtp_rows(one)


def render(probed: Probed, console: Console) -> None:
    """Print everything to a rich console, in colours where it has them. Server text is never taken for markup."""
    from rich.text import Text

    for found, verdict, _ in probed.servers:
        good = found.exit_code == ExitCode.OK
        mark = Text("ok  " if good else "NO  ", style="bold green" if good else "bold red")
        console.print(mark + Text(f"{found.protocol.upper()}: {verdict}", style="bold"))
        advice = words.hint(probed.target, found)
        if advice:
            console.print(Text(f"    {advice}", style="yellow"))
    for found, _, rows in probed.servers:
        console.print()
        _render_details(console, found, rows)
        if found.methods and found.login_needed:
            console.print()
            _render_methods(console, found)
    text = snippet(probed.target, probed.pop3, probed.smtp)
    for line in _closing(probed, text):
        console.print()
        console.print(Text(line, style="bold"))
    if text:
        console.print(Text(text, style="cyan"), soft_wrap=True)


def _render_details(console: Console, found: Found, rows: words.Rows) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(Text(label), Text(_short(value), style="red" if "NOT TRUSTED" in value else ""))
    for label, texts, style in (("warning", found.warnings, "yellow"), ("note", found.notes, "")):
        for text in texts:
            table.add_row(Text(label, style=style), Text(_short(text), style=style))
    console.print(Text(found.protocol.upper(), style="bold underline"))
    console.print(table)


def _render_methods(console: Console, found: Found) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in _HEADER:
        table.add_column(name, overflow="fold", no_wrap=name in ("method", "enabled", "order"))
    for one, row in zip(found.methods, words.method_rows(found), strict=True):
        style = "green" if one.order is not None else "" if one.announced_by else "dim"
        table.add_row(*(Text(cell, style="bold " + style if one.order == 1 else style) for cell in row))
    console.print(table)


def plain(probed: Probed) -> Iterator[str]:
    """Yield the lines for a pipe or a file: aligned, at most 80 columns but for what is to be pasted."""
    for found, verdict, _ in probed.servers:
        mark = "ok" if found.exit_code == ExitCode.OK else "NO"
        yield from textwrap.wrap(f"{mark} {found.protocol.upper()}: {verdict}", WIDTH, subsequent_indent="   ")
        yield from textwrap.wrap(words.hint(probed.target, found), WIDTH, initial_indent="   ", subsequent_indent="   ")
    for found, _, rows in probed.servers:
        yield ""
        yield found.protocol.upper()
        remarks = [*(("warning", text) for text in found.warnings), *(("note", text) for text in found.notes)]
        for label, value in (*rows, *remarks):
            yield from _hanging(f"{label:{LABEL}}", _short(value))
        if found.methods and found.login_needed:
            yield ""
            for row in (_HEADER, *words.method_rows(found)):
                head = "  ".join(f"{cell:{width}}" for cell, width in zip(row, _WIDTHS, strict=False))
                yield from _hanging(head, row[-1])
    text = snippet(probed.target, probed.pop3, probed.smtp)
    for line in _closing(probed, text):
        yield from ("", line)
    if text:
        yield from text.split("\n")


def _hanging(head: str, text: str) -> Iterator[str]:
    indent = " " * (len(head) + 2)
    lines = textwrap.wrap(text, WIDTH - len(indent)) or [""]
    yield f"{head}  {lines[0]}".rstrip()
    yield from (indent + line for line in lines[1:])


def _closing(probed: Probed, text: str) -> Iterator[str]:
    if text:
        yield _BETTER if probed.target.connector else _SUGGESTED
    elif probed.exit_code == ExitCode.OK:
        yield _NOTHING


def _short(text: str) -> str:
    return text if len(text) <= VALUE else f"{text[:VALUE]}..."


def document(probed: Probed) -> dict[str, Any]:
    """Return the --json document."""
    return {
        "exit_code": int(probed.exit_code),
        "connector": probed.target.connector or None,
        "pop3": _pop3(probed),
        "smtp": [_smtp(probed, one) for one in probed.smtp],
        "snippet": snippet(probed.target, probed.pop3, probed.smtp),
    }


def _pop3(probed: Probed) -> dict[str, Any]:
    found = probed.pop3
    return {
        **_common(probed.target, found, words.pop3_verdict(found)),
        "apop": found.apop,
        "clear": _answers(found.clear),
        "stls": found.starttls,
        "secured": _answers(found.secured),
        "unanswered": list(found.muted),
        "round_trips": found.round_trips,
        "steps": [{"step": name, "round_trips": count} for name, count in found.steps],
    }


def _smtp(probed: Probed, found: SmtpFound) -> dict[str, Any]:
    return {
        **_common(probed.target, found, words.smtp_verdict(found)),
        "clear": found.clear,
        "starttls": found.starttls,
        "secured": found.secured,
        "login": found.login_needed,
    }


def _common(target: Target, found: Found, verdict: str) -> dict[str, Any]:
    return {
        "server": found.server,
        "protocol": found.protocol,
        "exit_code": int(found.exit_code),
        "verdict": verdict,
        "hint": words.hint(target, found),
        "reason": found.problem.reason if found.problem is not None else None,
        "address": found.peer,
        "connect_seconds": found.connect_seconds,
        "greeting": found.greeting,
        "ssl": found.ssl,
        "tls": _tls(found.tls),
        "encrypted": found.secure,
        "method": found.method,
        "methods": [_method(one) for one in found.methods],
        "unsupported": list(found.unsupported),
        "warnings": found.warnings,
        "notes": found.notes,
    }


def _method(one: Method) -> dict[str, Any]:
    return {
        "method": one.name,
        "announced_by": list(one.announced_by),
        "enabled": one.enabled,
        "order": one.order,
        "usable": one.order is not None,
        "why_not": one.why_not,
        "warning": one.warning,
    }


def _tls(found: TlsFound | None) -> dict[str, Any] | None:
    if found is None:
        return None
    certificate = found.certificate
    return {
        "version": found.version,
        "cipher": found.cipher,
        "trusted": not found.refused,
        "verification": found.verified,
        "refused": found.refused,
        "expected_name": found.expected_name,
        "certificate": None
        if certificate is None
        else {name: getattr(certificate, name) for name in certificate.__slots__},
    }


def _answers(answers: Answers | None) -> dict[str, Any] | None:
    if answers is None:
        return None
    return {"capabilities": answers.capabilities, "auth": answers.listed, "replies": answers.replies}
