"""What a login would cost, in round trips, and what else of a POP3 server's answers deserves a word. Pure."""

from __future__ import annotations

from poprep_cli.net.probe_found import Found, Method, Pop3Found

SOON = 21  # days; who renews by machine does it 30 days before the end

# Round trips of a method, with an initial response (RFC 5034) and without.
_TRIPS = {
    "external": (1, 2),
    "plain": (1, 2),
    "login": (3, 3),
    "cram-md5": (2, 2),
    "ntlm": (2, 3),
    "msn": (2, 3),
    "apop": (1, 1),
    "user": (2, 2),
}
_SCRAM = (3, 4)


def login_steps(found: Pop3Found, *, asks_capa: bool, at_connect: bool) -> tuple[tuple[str, int], ...]:
    """Return the round trips from the connection to the end of the login by the first method, step by step.

    They are those of a pass that remembers nothing; once a method has worked AUTH is asked only where it is needed.
    """
    first = next((one for one in found.methods if one.order == 1), None)
    handshake = ("TLS", 1 if found.tls is not None and found.tls.version == "TLS 1.3" else 2)
    steps = [("connection", 1)]
    if at_connect and found.secure:
        steps.append(handshake)
    steps.append(("greeting", 1))
    if asks_capa:
        steps.append(("CAPA", 1))
    if found.secure and not at_connect:
        steps += [("STLS", 1), handshake]
        if asks_capa:
            steps.append(("CAPA", 1))
    if found.asks_auth and "AUTH" not in found.muted:
        steps.append(("AUTH", 1))
    if first is not None:
        steps.append((first.name, _trips(first)))
    return tuple(steps)


def _trips(method: Method) -> int:
    with_initial, without = _TRIPS.get(method.name, _SCRAM)
    return with_initial if "CAPA" in method.announced_by else without


def warn(found: Pop3Found) -> None:
    """Add to `found` what its answers mean for a pass."""
    warn_of_tls(found)
    answers = found.answers
    capabilities = answers.capabilities if answers is not None else None
    if capabilities is None:
        return
    if "UIDL" not in capabilities:
        found.warnings.append(
            "UIDL is not announced; without it mail can't be told apart, and a poll ends with an error"
        )
    if "PIPELINING" not in capabilities:
        found.notes.append("no PIPELINING: each message costs a round trip of its own")
    if capabilities.get("EXPIRE", ("",))[:1] == ("0",):
        found.warnings.append("EXPIRE 0: the server may delete mail once it was read, whatever leave_copy says")
    delay = login_delay(found)
    if delay:
        found.notes.append(f"LOGIN-DELAY: a login less than {delay} seconds after the last one may be refused")


def warn_of_tls(found: Found) -> None:
    """Add to `found` what its TLS and its methods mean for a pass."""
    certificate = found.tls.certificate if found.tls is not None else None
    if certificate is not None and certificate.days_left is not None and 0 <= certificate.days_left < SOON:
        found.warnings.append(f"the certificate expires in {certificate.days_left} days, on {certificate.valid_until}")
    found.warnings += dict.fromkeys(f"{one.name}: {one.warning}" for one in found.methods if one.warning)


def login_delay(found: Pop3Found) -> int:
    """Return the seconds between two logins that LOGIN-DELAY asks for (RFC 2449 6.5), 0 if it asks for none."""
    answers = found.answers
    capabilities = (answers.capabilities if answers is not None else None) or {}
    seconds = capabilities.get("LOGIN-DELAY", ("",))[:1]
    return int(seconds[0]) if seconds and seconds[0].isdecimal() and len(seconds[0]) < 9 else 0
