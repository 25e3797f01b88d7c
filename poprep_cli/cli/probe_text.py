"""What a probe has found, in words: the verdicts, and rows of labels and values. Pure: no terminal, no colours."""

from __future__ import annotations

from poprep_cli.cli.probe_target import Target
from poprep_cli.errors import ExitCode, TlsError
from poprep_cli.net.probe_found import Answers, Found, Pop3Found, SmtpFound

Rows = list[tuple[str, str]]

FEATURES = ("UIDL", "TOP", "PIPELINING", "EXPIRE", "LOGIN-DELAY", "RESP-CODES")
SHOWN = 20  # names of a certificate; --json has more


def pop3_verdict(found: Pop3Found) -> str:
    """Return in one sentence what a poll would meet at this server."""
    if found.problem is not None:
        return _trouble(found)
    if not found.method:
        return f"a poll could not log in to {found.server}: no enabled method is usable"
    return f"a poll would log in by {found.method} {_over(found)}, in {found.round_trips} round trips"


def smtp_verdict(found: SmtpFound) -> str:
    """Return in one sentence what handing over mail to this server would meet."""
    if found.problem is not None:
        return _trouble(found)
    if not found.login_needed:
        return f"mail would go to {found.server} {_over(found)}, without a login (no smtp.user)"
    if not found.method:
        return f"a poll could not log in to {found.server}: no enabled method is usable"
    return f"mail would go to {found.server} {_over(found)}, logged in by {found.method}"


def _trouble(found: Found) -> str:
    verb = "refuse" if isinstance(found.problem, TlsError) else "fail"
    return f"a poll would {verb}: {found.problem}"


def _over(found: Found) -> str:
    return f"over {found.tls.version}" if found.secure and found.tls is not None else "WITHOUT ENCRYPTION"


def hint(target: Target, found: Found) -> str:
    """Return what to do about a verdict, or ""."""
    if isinstance(found, Pop3Found):
        if not found.peer and target.hint:
            return target.hint
        if found.speaks_tls_at_once and found.problem is not None:
            return "the server waits for TLS at once on this port: ssl = true"
        if found.speaks_clear:
            return "the server greets in the clear on this port: without ssl, STLS encrypts"
    if found.problem is None and found.exit_code != ExitCode.OK:
        return "the table of methods says why not"
    return (found.problem.hint or "") if found.problem is not None else ""


def pop3_rows(found: Pop3Found) -> Rows:
    """Return the details of a POP3 server; what was not seen is left out."""
    rows = _connection_rows(found)
    if found.greeting is not None:
        rows.append(("APOP", "possible" if found.apop else "not possible: the greeting has no timestamp (RFC 1939 7)"))
    if found.clear is not None:
        rows.append(("CAPA" if found.secured is None else "CAPA in clear", _capabilities(found.clear)))
    if found.starttls:
        rows.append(("STLS", found.starttls))
    rows += _tls_rows(found)
    if found.secured is not None:
        rows.append(("CAPA in TLS", _capabilities(found.secured)))
    answers = found.answers
    if answers is not None:
        listed = " ".join(answers.listed or ("(empty)",))
        rows.append(("AUTH list", answers.replies.get("AUTH", "") if answers.listed is None else listed))
        rows += [("features", _features(answers))]
    if found.unsupported:
        rows.append(("also offered", f"{' '.join(found.unsupported)}: not known to poprep"))
    if found.steps and found.problem is None:
        rows.append(("login", _steps(found)))
    return rows


def smtp_rows(found: SmtpFound) -> Rows:
    """Return the details of an SMTP server; what was not seen is left out."""
    rows = _connection_rows(found)
    if found.clear is not None:
        rows.append(("EHLO" if found.secured is None else "EHLO in clear", _extensions(found.clear)))
    if found.starttls:
        rows.append(("STARTTLS", found.starttls))
    rows += _tls_rows(found)
    if found.secured is not None:
        rows.append(("EHLO in TLS", _extensions(found.secured)))
    extensions = found.extensions
    if extensions is not None:
        rows.append(("AUTH", extensions.get("AUTH", "not announced")))
        size = extensions.get("SIZE")
        rows.append(("SIZE", "not announced" if size is None else _size(size)))
    if found.unsupported:
        rows.append(("also offered", f"{' '.join(found.unsupported)}: not known to poprep"))
    return rows


def method_rows(found: Found) -> list[tuple[str, str, str, str, str]]:
    """Return the table of methods: name, announced by, enabled, order, verdict."""
    return [
        (
            one.name,
            ", ".join(one.announced_by) or "-",
            "yes" if one.enabled else "no",
            str(one.order) if one.order is not None else "-",
            "; ".join(text for text in (one.why_not or "usable", one.warning) if text),
        )
        for one in found.methods
    ]


def _connection_rows(found: Found) -> Rows:
    kind = " (TLS at connect)" if found.ssl else ""
    rows = [("server", f"{found.server}{kind}")]
    if found.connect_seconds is not None:
        at = found.peer or "a unix socket"
        rows.append(("address", f"{at}, connected in {found.connect_seconds * 1000:.1f} ms"))
    if found.greeting is not None:
        rows.append(("greeting", found.greeting))
    return rows


def _tls_rows(found: Found) -> Rows:
    tls = found.tls
    if tls is None:
        return []
    state = "NOT TRUSTED, a poll would not go on" if tls.refused else tls.verified
    rows = [("TLS", f"{tls.version}, {tls.cipher}, {state}")]
    if tls.refused:
        rows += [("why not", tls.refused), ("expected name", tls.expected_name)]
    one = tls.certificate
    if one is None:
        return rows
    if one.unreadable:
        return [*rows, ("certificate", f"it can't be read: {one.unreadable}"), ("SHA-256", one.sha256)]
    names = ", ".join(one.names[:SHOWN]) + (f" and {len(one.names) - SHOWN} more" if len(one.names) > SHOWN else "")
    days = one.days_left or 0
    left = f"{days} days left" if days >= 0 else f"EXPIRED {-days} days ago"
    rows += [
        ("certificate", f"{names or 'no names'} (subject {one.subject})"),
        ("issuer", one.issuer + (" (self-signed)" if one.self_signed else "")),
        ("valid", f"{one.valid_from} to {one.valid_until}, {left}; {one.key}"),
        ("SHA-256", one.sha256),
    ]
    return rows


def _capabilities(answers: Answers) -> str:
    if answers.capabilities is None:
        return answers.replies.get("CAPA", "no answer")
    return ", ".join(" ".join((name, *words)) for name, words in answers.capabilities.items()) or "(empty)"


def _extensions(extensions: dict[str, str]) -> str:
    return (
        ", ".join(f"{name} {words}".strip() for name, words in extensions.items()) or "(empty, or only HELO is known)"
    )


def _features(answers: Answers) -> str:
    found = answers.capabilities
    if found is None:
        return "unknown without CAPA"
    return ", ".join(f"{name} {' '.join(found[name]) or 'yes'}" if name in found else f"{name} no" for name in FEATURES)


def _steps(found: Pop3Found) -> str:
    each = ", ".join(name if count == 1 else f"{name} ({count})" for name, count in found.steps)
    about = found.round_trips * (found.connect_seconds or 0.0)
    return f"{found.round_trips} round trips, about {about * 1000:.0f} ms: {each}"


def _size(words: str) -> str:
    digits = words.partition(" ")[0]
    if not digits.isdecimal():
        return words or "announced, without a limit"
    return "no limit" if not int(digits) else f"{int(digits):,} octets"
