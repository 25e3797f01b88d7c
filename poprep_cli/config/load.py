"""Reads poprep.toml into the typed model, or refuses it with every fault in it, each with its line and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from poprep_cli.config import secrets
from poprep_cli.config.model import (
    NO_SECRET,
    Address,
    Config,
    Connector,
    Form,
    Key,
    Pop3,
    Routing,
    Smtp,
    TlsSettings,
    dotted,
    is_secret,
    keys,
    quoted,
    tables,
)
from poprep_cli.config.values import NotAllowedError, allowed, bare_type, converted, shown
from poprep_cli.errors import ConfigError
from poprep_cli.protocol.sasl.methods import POP3_DEFAULT

ON_WINDOWS = os.name == "nt"
FILE_SIZE_LIMIT = 64 * 1024 * 1024  # octets; 1,000 connectors need half a MiB
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

_PORTS = {"pop3": (110, 995), "smtp": (25, 465), "lmtp": (24, 24)}  # without and with TLS at connect
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_LITERAL = r"\[[0-9a-z:.]+\]"
_IN_LABELS = "-\u00b7\u200c\u200d\u30fb"  # besides letters, marks and digits (RFC 5892 2.6)
_BY_SOURCE_DOMAIN = ("target_domain", "headers", "trusted_header", "prefix", "no_match")
_BY_SRS = ("srs_domain", "srs_secret")
_NEEDED = (Pop3, Routing)  # tables that have keys which each connector must have
_NAME_ALLOWED = "1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit in front"

Where = tuple[str, ...]


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with one key or table. `incomplete`: it is only missing so far; `exposed`: others can read it."""

    where: Where
    text: str
    incomplete: bool = False
    exposed: bool = False
    line: int | None = None


def load(path: Path) -> Config:
    """Return the configuration in the file, complete and checked, without touching the network or a secret's source.

    Raises ConfigError with all faults, one line each: `FILE:LINE: key: what is wrong; what is allowed`.
    """
    text, status = read(path)
    config, faults = examine(text, path, exposed=secrets.readable_by_others(status))
    if config is None:
        raise refusal(text, path, faults)
    return config


def read(path: Path) -> tuple[str, os.stat_result]:
    """Return the text of a configuration file and the status of what was opened. Raises ConfigError."""
    try:
        return secrets.read_file(path, size_limit=FILE_SIZE_LIMIT)
    except ConfigError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        hint = (
            "--config FILE or $POPREP_CONFIG names another place; docs/configuration.md has a sample to start from, "
            "and `poprep demo` needs no configuration"
        )
        raise ConfigError(str(error), hint=hint) from None


def examine(text: str, path: Path, *, exposed: bool = False) -> tuple[Config | None, list[Fault]]:
    """Return what the text of a configuration means and its faults: the one is None exactly if there are others.

    `path` is where the text is or will be; `exposed` says that others can read that file, which then may hold no secret.
    """
    import tomllib

    try:
        data = tomllib.loads(text)
    except RecursionError:
        return None, [Fault((), "not valid TOML: too deeply nested", line=1)]
    except ValueError as error:
        return None, [_syntax_fault(str(error), text)]
    reading = _Reading(Path(os.path.abspath(path)))  # noqa: PTH100 - resolve() would follow the link, and its folder is not meant
    config = reading.config(data)
    if exposed and reading.literal is not None:
        told = "others can read this file, and it holds this secret; allowed: mode 600, or the secret in another place"
        reading.faults.setdefault(Fault(reading.literal, told, exposed=True))
    return (None if reading.faults else config), list(reading.faults)


def refusal(text: str, path: Path, faults: list[Fault]) -> ConfigError:
    """Return the error that tells all faults, in the order of the file."""
    from poprep_cli.config.locate import line_of, lines

    index = lines(text)
    placed = [(fault.line or line_of(index, fault.where), fault) for fault in faults]
    placed.sort(key=lambda item: item[0] or 0)
    told = []
    for line, fault in placed:
        start = f"{path}:{line}" if line else str(path)
        told.append(f"{start}: {dotted(fault.where)}: {fault.text}" if fault.where else f"{start}: {fault.text}")
    exposed = any(fault.exposed for fault in faults)
    return ConfigError("\n".join(told), hint=secrets.chmod_hint(path) if exposed else None)


def accepts(kind: object, value: object) -> bool:
    """Return whether a key of this type may have this TOML value."""
    try:
        converted(kind, value)
    except NotAllowedError:
        return False
    return True


def is_domain(text: str) -> bool:
    """Return whether a text is a domain of A-labels (RFC 5890), or has such a form, or is an address literal.

    A dot at the end is allowed. Lengths are those of RFC 1035: 63 octets a label, 253 the whole.
    """
    name = text.lower()
    if len(name) > 254 or re.fullmatch(_LITERAL, name):
        return len(name) <= 254
    labels = [_a_label(label) for label in name.removesuffix(".").split(".")]
    return len(".".join(labels)) <= 253 and all(re.fullmatch(_LABEL, label) for label in labels)


def _a_label(label: str) -> str:
    if label.isascii():
        return label
    import unicodedata

    label = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).lower())
    if label.isascii():
        return label
    if any(unicodedata.category(char)[0] not in "LMN" and char not in _IN_LABELS for char in label):
        return ""
    return "xn--" + label.encode("punycode").decode("ascii")


def _syntax_fault(message: str, text: str) -> Fault:
    if place := re.search(r" ?\(at line (\d+), column (\d+)\)$", message):
        return Fault((), f"not valid TOML: {message[: place.start()]} (column {place[2]})", line=int(place[1]))
    message = message.removesuffix(" (at end of document)")
    return Fault((), f"not valid TOML: {message} (at the end of the file)", line=text.rstrip().count("\n") + 1)


class _Reading(msgspec.Struct):
    """One reading of a configuration: the faults found so far, each once, and the first key with a secret in the file."""

    path: Path
    faults: dict[Fault, None] = msgspec.field(default_factory=dict)
    literal: Where | None = None

    def fault(self, where: Where, text: str, *, incomplete: bool = False) -> None:
        self.faults.setdefault(Fault(where, text, incomplete))

    def config(self, data: dict[str, object]) -> Config | None:
        values = self.values(Config, (), data, ("smtp", "connector", *tables(Config)))
        smtp = self.values(Smtp, ("smtp",), data.get("smtp", {}))
        if values.pop("smtp", None) is _WRONG:
            smtp.setdefault("host", _WRONG)
        misspelt = values.pop("connector", None) is _WRONG
        connectors = [] if misspelt else self.connectors(data.get("connector", {}), smtp)
        others = {name: self.struct(kind, (name,), data[name]) for name, kind in tables(Config).items() if name in data}
        if self.faults:
            return None
        return Config(path=str(self.path), connectors=tuple(connectors), **_fields(Config, values), **others)

    def connectors(self, raw: object, smtp: Mapping[str, Any]) -> list[Any]:
        if not isinstance(raw, dict):
            self.fault(("connector",), f"{shown(raw)} is not allowed; allowed are tables: [connector.NAME]")
            return []
        if not raw:
            self.fault((), "there is no connector; each mailbox needs a [connector.NAME] table", incomplete=True)
        seen: dict[str, str] = {}
        for name in raw:
            where = ("connector", name)
            if not re.fullmatch(NAME, name):
                self.fault(where, f"this is no name for a connector; allowed: {_NAME_ALLOWED}")
            other = seen.setdefault(name.lower(), name)
            if other != name:
                self.fault(where, f"{dotted((other,))} is a connector already; names must differ in more than case")
        shared = None
        if any(isinstance(table, dict) and "smtp" not in table for table in raw.values()):
            shared = self.smtp(smtp, dict.fromkeys(smtp, ("smtp",)), ("smtp",))
        return [self.connector(name, table, smtp, shared) for name, table in raw.items()]

    def connector(self, name: str, raw: object, smtp: Mapping[str, Any], shared: Smtp | None) -> Connector | None:
        where = ("connector", name)
        values = self.values(Connector, where, raw, tuple(tables(Connector)))
        if not isinstance(raw, dict):
            return None
        made: dict[str, Any] = {}
        for table, kind in tables(Connector).items():
            here = (*where, table)
            if values.pop(table, None) is _WRONG:
                continue
            if kind is not Smtp:
                if table in raw or kind in _NEEDED:  # the others have defaults, which need not be looked at
                    made[table] = self.struct(kind, here, raw.get(table, {}))
            elif table not in raw:
                made[table] = shared
            else:
                own = self.values(Smtp, here, raw[table])
                origin = dict.fromkeys(smtp, ("smtp",)) | dict.fromkeys(own, here)
                made[table] = self.smtp({**smtp, **own}, origin, here)
        return None if self.faults else Connector(name=name, **_fields(Connector, values), **made)

    def values(
        self, kind: type[msgspec.Struct], where: Where, raw: object, inner: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the values of the keys that are there, `_WRONG` for what was refused; `inner` are tables below."""
        if not isinstance(raw, dict):
            self.fault(where, f"{shown(raw)} is not allowed; allowed is a table: [{dotted(where)}]")
            return {name: _WRONG for name, key in keys(kind).items() if key.required}
        allowed = keys(kind)
        found: dict[str, Any] = {}
        for name, value in raw.items():
            key = allowed.get(name)
            if key is not None:
                found[name] = self.value(key, (*where, name), value)
            elif name not in inner:
                guess = self.unknown(name, where, (*allowed, *inner))
                if guess and guess not in raw:
                    found[guess] = _WRONG  # it is not missing as well
        return found

    def value(self, key: Key, where: Where, raw: object) -> object:
        if is_secret(key.type) and isinstance(raw, str):
            self.literal = self.literal or where
        try:
            value = converted(key.type, raw)
        except NotAllowedError as error:
            self.fault(where, str(error))
            return _WRONG
        form = bare_type(key.type)[1]
        if Form.FILE in form or Form.FOLDER in form:
            value = str(self.path.parent / os.path.expanduser(value))  # noqa: PTH111 - leaves an unknown ~user alone
            if Form.FILE in form and not os.path.isfile(value):  # noqa: PTH113 - False, not an exception, for what is no file name
                self.fault(where, f"there is no file {quoted(value)}; allowed: {allowed(key.type)}")
        if Form.DOMAIN in form and value and not is_domain(value):
            self.fault(where, f"{shown(value)} is not allowed; allowed: {allowed(key.type)}")
            return _WRONG
        return value

    def unknown(self, name: str, where: Where, allowed: tuple[str, ...]) -> str:
        """Add the fault of an unknown key, and return the key that was probably meant, or an empty text."""
        import difflib

        guess = next(iter(difflib.get_close_matches(name.lower(), allowed, n=1)), "")
        homes = [table for table, kind in tables(Connector).items() if name in keys(kind)] if len(where) > 1 else []
        meant = f"did you mean {guess}? " if guess else ""
        if homes:
            meant = f"it belongs into {' or '.join(f'[{dotted((*where[:2], home))}]' for home in homes)}; "
        self.fault((*where, name), f"unknown key; {meant}allowed: {', '.join(allowed)}")
        return "" if homes else guess

    def struct(self, kind: type[msgspec.Struct], where: Where, raw: object) -> Any:  # noqa: ANN401 - one of the model's
        values = self.values(kind, where, raw)
        if kind is Pop3:
            self.server(values, dict.fromkeys(values, where), "pop3")
            self.account(values, where)
        elif kind is Routing and isinstance(raw, dict):
            self.recipients(values, where)
            self.rewriting(values, where)
        return self.made(kind, where, values)

    def recipients(self, values: Mapping[str, Any], where: Where) -> None:
        """Check that there is somebody to send to, and that no key is without effect for want of a source domain."""
        routed = values.get("source_domain")
        for name in () if routed else _BY_SOURCE_DOMAIN:
            if values.get(name, _WRONG) not in (_WRONG, keys(Routing)[name].default):
                text = "this key is of no use alone; needed: source_domain, the domain of the recipients in the header"
                self.fault((*where, name), text, incomplete=True)
        if values.get("send_to") or (routed and values.get("no_match", "send_to") != "send_to"):
            return
        others = ', or no_match = "badmail", "discard" or "hold"' if routed else ""
        flaw = "an empty list is not allowed" if "send_to" in values else "missing"
        needed = f"{allowed(keys(Routing)['send_to'].type)}{others}"
        self.fault((*where, "send_to"), f"{flaw}; needed: {needed}", incomplete=True)

    def rewriting(self, values: Mapping[str, Any], where: Where) -> None:
        """Check that the keys of the Sender Rewriting Scheme are there exactly if it is used."""
        sender = values.get("sender", "keep")
        for name in () if sender is _WRONG else _BY_SRS:
            value = values.get(name)
            if sender == "srs" and not value:
                needed = allowed(keys(Routing)[name].type).removesuffix("; empty: none")
                self.fault((*where, name), f'missing; needed with sender = "srs": {needed}', incomplete=True)
            elif sender != "srs" and value and value is not _WRONG:
                text = 'this key is of no use alone; needed: sender = "srs"'
                self.fault((*where, name), text, incomplete=True)

    def account(self, values: dict[str, Any], where: Where) -> None:
        """Let the account that runs the task log in without a name: on Windows, and by nothing but NTLM."""
        if values.get("user") != "":
            return
        auth = values.get("auth", POP3_DEFAULT)
        if not ON_WINDOWS or (auth is not _WRONG and not set(auth) <= {"ntlm", "msn"}):
            usual = allowed(keys(Pop3)["user"].type)
            text = f'{quoted("")} is not allowed; allowed: {usual}, or on Windows, with auth of "ntlm" and "msn" only, an empty one'
            self.fault((*where, "user"), text)
        elif "password" in values:
            text = "an empty user is the account that runs the task, which has logged in already; allowed: no password"
            self.fault((*where, "password"), text)
        values.setdefault("password", NO_SECRET)

    def smtp(self, values: Mapping[str, Any], origin: Mapping[str, Where], where: Where) -> Smtp | None:
        values = dict(values)
        protocol = values.get("protocol", "smtp")
        self.server(values, origin, protocol if protocol in _PORTS else "smtp")
        auth = values.get("auth", ())
        alone = auth is _WRONG or "external" in auth  # one of the two may be
        for one, other in (("user", "password"), ("password", "user")):
            if one in values and other not in values and not alone:
                self.fault((*origin[one], one), f"this key is of no use alone; needed: {other}", incomplete=True)
        smtp: Smtp | None = self.made(Smtp, where, values)
        return smtp

    def made(self, kind: type[msgspec.Struct], where: Where, values: dict[str, Any]) -> Any:  # noqa: ANN401 - ditto
        for name, key in keys(kind).items():
            if key.required and name not in values:
                self.fault((*where, name), f"missing; needed: {allowed(key.type)}", incomplete=True)
        return None if self.faults else kind(**_fields(kind, values))

    def server(self, values: dict[str, Any], origin: Mapping[str, Where], protocol: str) -> None:
        """Fill in the default port and the default of `tls`, and check what several keys say together."""
        if "tls_client_key" in values and "tls_client_cert" not in values:
            where = (*origin["tls_client_key"], "tls_client_key")
            self.fault(
                where, "this key is of no use alone; needed: tls_client_cert, the certificate that it belongs to"
            )
        hosts = values.get("host", _WRONG)
        if hosts is _WRONG:
            return
        tls_at_connect = values.get("ssl") is True
        port = _PORTS[protocol][tls_at_connect]
        several = hosts if isinstance(hosts, tuple) else (hosts,)
        several = tuple(host if host.path else replace(host, port=host.port or port) for host in several)
        for host in several:
            self.reachable(host, (*origin["host"], "host"), protocol, tls_at_connect=tls_at_connect)
        values["host"] = several if isinstance(hosts, tuple) else several[0]
        values.setdefault("tls", "off" if all(host.is_local for host in several) else "required")

    def reachable(self, host: Address, where: Where, protocol: str, *, tls_at_connect: bool) -> None:
        if host.path and protocol != "lmtp":
            self.fault(where, f'{shown(str(host))} is a unix socket; allowed only for smtp with protocol = "lmtp"')
        elif host.path and tls_at_connect:
            self.fault(where, f"{shown(str(host))} is a unix socket; allowed only with ssl = false")
        elif host.port == 25 and protocol == "lmtp":
            self.fault(where, "LMTP must not use port 25 (RFC 2033); allowed: any other, 24 by default")


class _Wrong:
    """Stands for a value that was there and was refused, so that it does not count as missing too."""


_WRONG = _Wrong()


def _fields(kind: type[msgspec.Struct], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments for a struct: keys become fields, and the flat tls_... keys are gathered."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        first, *second = keys(kind)[name].field
        made[first] = replace(made.get(first, TlsSettings()), **{second[0]: value}) if second else value
    return made
