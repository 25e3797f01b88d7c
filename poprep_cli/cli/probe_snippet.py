"""What `poprep probe` suggests to put into the configuration: a whole table for a host, for a connector what is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from poprep_cli.cli.probe_target import POP3, POP3S, Target
from poprep_cli.config.model import quoted
from poprep_cli.net.probe_found import Found, Method, Pop3Found, SmtpFound, reversible
from poprep_cli.net.probe_login import login_delay

WIDTH = 90  # columns that a line of methods may take
_PIN = "only if the server's administrator confirms this fingerprint"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A line for a table of the configuration, "" for the connector's own, and why."""

    table: str
    line: str
    why: str


def snippet(target: Target, pop3: Pop3Found, smtp: list[SmtpFound]) -> str:
    """Return the TOML to paste, "" if there is nothing to suggest."""
    if not target.connector:
        return _whole(target, pop3) if pop3.greeting is not None else ""
    lines: list[str] = []
    table = None
    for one in sorted(suggestions(target, pop3, smtp), key=lambda each: each.table):
        if one.table != table:
            table = one.table
            name = target.connector if all(char.isalnum() or char in "-_" for char in target.connector) else None
            path = f"connector.{name or quoted(target.connector)}" + (f".{table}" if table else "")
            lines += [*([""] if lines else []), f"[{path}]"]
        lines += [f"# {one.why}", one.line]
    return "\n".join(lines)


def suggestions(target: Target, pop3: Pop3Found, smtp: list[SmtpFound]) -> list[Suggestion]:
    """Return what would be better in a connector's settings; empty if nothing needs to change."""
    settings = target.pop3
    found = _tls(pop3, "pop3", settings.tls)
    if pop3.speaks_tls_at_once:
        found = [Suggestion("pop3", "ssl = true", "the server waits for TLS at once on this port")]
    elif pop3.speaks_clear:
        found = [Suggestion("pop3", "ssl = false", "the server greets in the clear on this port; STLS encrypts")]
    found += _auth(target, pop3)
    if pop3.muted:
        left = [name for name in settings.detect if name.upper() not in pop3.muted]
        why = f"{' and '.join(pop3.muted)} costs a lost connection whenever the server is looked at anew"
        found.append(Suggestion("pop3", f"detect = {_list(left)}", why))
    delay = login_delay(pop3)
    if delay > target.poll_every * 60:
        found.append(
            Suggestion("", f"poll_every = {-(-delay // 60)}", f"LOGIN-DELAY asks for {delay} seconds between logins")
        )
    if target.smtp is not None:
        for one in smtp[:1]:
            found += _tls(one, "smtp", target.smtp.tls)
            good = _good(one)
            if one.login_needed and not one.method and good:
                why = "these are announced, and no enabled method is usable"
                found.append(Suggestion("smtp", _auth_line(good), why))
    return found


def _tls(found: Found, table: str, tls: str) -> list[Suggestion]:
    if found.tls is None:
        offered = not found.ssl and tls == "off" and _offers_tls(found)
        return [Suggestion(table, 'tls = "required"', "the server offers TLS")] if offered else []
    if found.tls.refused:
        if found.tls.version in ("TLS 1.0", "TLS 1.1"):
            version = found.tls.version.removeprefix("TLS ")
            return [Suggestion(table, f'tls_min_version = "{version}"', "this old version is broken; better renew it")]
        certificate = found.tls.certificate
        return [Suggestion(table, f'tls_fingerprint = "{certificate.sha256}"', _PIN)] if certificate else []
    if not found.ssl and tls == "wanted":
        return [Suggestion(table, 'tls = "required"', "TLS works here, and so nobody can take it away unnoticed")]
    return []


def _offers_tls(found: Found) -> bool:
    if isinstance(found, SmtpFound):
        return "STARTTLS" in (found.clear or {})
    answers = found.clear if isinstance(found, Pop3Found) else None
    return answers is not None and "STLS" in (answers.capabilities or {})


def _auth(target: Target, pop3: Pop3Found) -> list[Suggestion]:
    good = _good(pop3)
    if not good:
        return []
    line = _auth_line(good)
    if not pop3.method:
        return [Suggestion("pop3", line, "these are announced, and no enabled method is usable")]
    if good.index(pop3.method) if pop3.method in good else reversible(pop3.method) and not reversible(good[0]):
        return [Suggestion("pop3", line, f"{good[0]} is announced and more secure than {pop3.method}")]
    enabled = [name for name in good if name in target.pop3.auth]
    from_capa = all("AUTH" not in one.announced_by or "CAPA" in one.announced_by for one in pop3.methods)
    if pop3.problem is None and pop3.asks_auth and from_capa and "AUTH" not in pop3.muted and enabled:
        why = "saves 1 round trip, the AUTH question, whenever the server is looked at anew"
        return [Suggestion("pop3", _auth_line(enabled), why)]
    return []


def _whole(target: Target, found: Pop3Found) -> str:
    """Return a table for a host that nothing is configured for."""
    address = target.pop3.address
    usual = POP3S if found.ssl else POP3
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = ["[connector.NAME.pop3]", f"host = {quoted(host if address.port == usual else str(address))}"]
    if found.speaks_clear:
        lines += ["ssl = false              # the server greets in the clear on this port; STLS encrypts"]
    elif found.ssl:
        lines += ["ssl = true"]
    elif found.tls is not None:
        lines += ['tls = "required"']
    elif address.is_local:
        lines += ['tls = "off"              # on this machine; anywhere else it must not be']
    elif found.problem is not None:
        lines += ["# The server offers no TLS here, so poprep does not log in. Try its TLS port: ssl = true"]
    if found.tls is not None and found.tls.refused and found.tls.certificate is not None:
        lines += [f"# {_PIN}:", f'# tls_fingerprint = "{found.tls.certificate.sha256}"']
    lines += ['user = "you@example.net"', 'password = { command = "pass show mail/NAME" }']
    good = _good(found)
    if good:
        lines += [_auth_line(good)]
    return "\n".join(lines)


def _good(found: Found) -> list[str]:
    """Return the methods that are announced and usable, switched on or not, most secure first, without what can be relayed."""
    return [one.name for one in found.methods if one.name != "external" and not one.warning and _fit(one)]


def _fit(one: Method) -> bool:
    return one.order is not None or (not one.enabled and bool(one.announced_by) and ";" not in one.why_not)


def _auth_line(methods: Sequence[str]) -> str:
    """Return the setting, on several lines where one would be too long for a terminal."""
    line = f"auth = {_list(methods)}"
    if len(line) <= WIDTH:
        return line
    names = _list(methods)[1:-1]
    broken = wrap(names, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(("auth = [", *broken, "]"))


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, names))}]"
