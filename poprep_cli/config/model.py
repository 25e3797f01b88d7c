"""The typed model of poprep.toml: what a pass is told. Plain frozen values, no I/O.

The names are those of the file. A value here is always usable: defaults are filled in, the global [smtp] table is merged
into each connector, and what contradicts itself was refused by `load`.

A new key is one field here: `keys` derives from the fields what the file may hold, and `load`, `edit`, and the commands
follow it. What a value may be stands in its type; the `description` of a constraint is what people are told is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec.structs import FieldInfo, fields, replace

from poprep_cli.protocol.sasl.methods import POP3_DEFAULT, SMTP_DEFAULT, WORKSTATION, Pop3Method, SmtpMethod


class Form(Enum):
    """What `load` does with a text besides checking it, written into its type."""

    FILE = "a file that must exist, relative to the configuration's folder; becomes an absolute path"
    FOLDER = "a folder that need not exist, relative to the configuration's folder; becomes an absolute path"
    FINGERPRINT = "colons are dropped and letters become small"
    DOMAIN = "a domain that has A-labels (RFC 5890), within the lengths of RFC 1035"


class Matching(msgspec.Struct, frozen=True):
    """A regular expression that a text must match. It is compiled when there is such a text; `Meta` would do it at import."""

    pattern: str


_DOMAIN = r"(?:[\w](?:[\w-]*\w)?(?:\.\w(?:[\w-]*\w)?)*|\[[0-9A-Za-z:.]+\])"
_LOCAL = r"(?:[^\s<>@\"(),:;\\\[\]\x00-\x1f\x7f-\x9f]+|\"[^\s<>\"\\\x00-\x1f\x7f-\x9f]+\")"  # RFC 5321 4.1.2, RFC 6531
_ADDRESS = f"{_LOCAL}@{_DOMAIN}"
_FIELD_NAME = "[!-9;-~]+"  # RFC 5322 3.6.8

DEFAULT_HEADERS = ("Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "To", "Cc", "Bcc")

Tls = Literal["required", "wanted", "off"]
ClearText = Literal["encrypted-only", "allow"]
Detection = Literal["capa", "auth", "welcome"]
Switch = Literal["auto", "off"]
SubmissionProtocol = Literal["smtp", "lmtp"]
TlsVersion = Literal["1.0", "1.1", "1.2", "1.3"]
NoMatch = Literal["send_to", "badmail", "discard", "hold"]

Text = Annotated[str, msgspec.Meta(min_length=1, description="a text that is not empty")]
Account = Annotated[str, msgspec.Meta(description="a text that is not empty")]  # but for the one case that `load` knows
Workstation = Annotated[
    str,
    msgspec.Meta(
        description='the name of a computer, up to 63 characters without spaces and \\ / : * ? " < > |; empty: none is sent',
    ),
    Matching(r"\A[^\s\x00-\x1f\x7f\\/:*?\"<>|]{0,63}\Z"),
]
MailAddress = Annotated[
    str,
    msgspec.Meta(max_length=254, description="an address such as a@corp.example, without < and >"),
    Matching(rf"\A{_ADDRESS}\Z"),
]
Sender = Annotated[
    str,
    msgspec.Meta(max_length=254, description='"keep", "null", "srs", or an address'),
    Matching(rf"\A(?:keep|null|srs|{_ADDRESS})\Z"),
]
Domain = Annotated[
    str,
    msgspec.Meta(description="a domain such as example.net; empty: none"),
    Form.DOMAIN,
    Matching(r"\A[^\s@<>]*\Z"),
]
FieldName = Annotated[
    str, msgspec.Meta(description="a header field's name, such as To"), Matching(rf"\A{_FIELD_NAME}\Z")
]
TrustedHeader = Annotated[
    str,
    msgspec.Meta(
        description="the name of a header field and which one from the top, 1 to 9999, such as Delivered-To:1; empty: none",
    ),
    Matching(rf"\A(?:{_FIELD_NAME}(?::[1-9][0-9]{{0,3}})?)?\Z"),
]
Prefix = Annotated[
    str,
    msgspec.Meta(
        description="the start of local parts, up to 64 characters without spaces and @, such as m1234-; empty: none",
    ),
    Matching(r"\A[^\s@\x00-\x1f\x7f]{0,64}\Z"),
]
Helo = Annotated[
    str,
    msgspec.Meta(
        description="a host name such as mx.example.net, or an address in brackets such as [192.0.2.1]",
    ),
    Matching(r"\A(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Za-z:.]{2,64}\])\Z"),
]
FilePath = Annotated[str, msgspec.Meta(min_length=1, description="the path of a file that exists"), Form.FILE]
FolderPath = Annotated[str, msgspec.Meta(min_length=1, description="the path of a folder"), Form.FOLDER]
Fingerprint = Annotated[
    str,
    msgspec.Meta(
        description="the SHA-256 of the certificate: 64 hexadecimal digits, with or without colons",
    ),
    Form.FINGERPRINT,
    Matching(r"\A[0-9A-Fa-f]{2}(?::?[0-9A-Fa-f]{2}){31}\Z"),
]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400, description="seconds, above 0 and up to 86400")]
Minutes = Annotated[float, msgspec.Meta(ge=0, le=525_600, description="minutes, from 0 to 525600 (a year)")]
Days = Annotated[int, msgspec.Meta(ge=0, le=36_500, description="a whole number of days, from 0 to 36500")]
LogLevel = Annotated[
    int, msgspec.Meta(ge=0, le=4, description="0 (off), 1 or 2 (mail and errors), 3 (verbose) or 4 (with the dialogue)")
]
Limit = Annotated[int, msgspec.Meta(ge=0, le=10**18, description="a whole number, 0 (no limit) or more")]
InFlight = Annotated[
    Literal["auto"] | Annotated[int, msgspec.Meta(ge=1, le=64)],
    msgspec.Meta(description='"auto", or a whole number from 1 to 64'),
]
Connections = Annotated[int, msgspec.Meta(ge=1, le=16, description="a whole number from 1 to 16")]
Hops = Annotated[int, msgspec.Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
SecondsLimit = Annotated[
    int, msgspec.Meta(ge=0, le=31_536_000, description="whole seconds, 0 (no limit) to 31536000 (a year)")
]


class Address(msgspec.Struct, frozen=True):
    """Where a server listens: a host and a TCP port, or the path of a unix socket (then the host is "")."""

    host: str
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine by its name: loopback, or a unix socket."""
        return (
            bool(self.path)
            or self.host in ("localhost", "::1")
            or (self.host.startswith("127.") and re.fullmatch(r"127(\.\d+){3}", self.host) is not None)
        )


class Secret(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """A secret, or where it is to be had; exactly one field is set. Its repr never shows the value."""

    value: str | None = None
    env: str | None = None
    file: str | None = None
    command: str | tuple[str, ...] | None = None
    keyring: str | None = None

    def __repr__(self) -> str:
        source = next((name for name in self.__struct_fields__ if getattr(self, name) is not None), "nothing")
        return f"Secret({source}=...)"

    __str__ = __repr__


NO_SECRET = Secret(command=())  # nobody is asked: of an account that needs none, the one that runs the task on Windows


class TlsSettings(msgspec.Struct, frozen=True):
    """How TLS is done with one server. Two equal settings may share one context, hence the value semantics."""

    ca_file: FilePath | None = None
    fingerprint: Fingerprint | None = None
    verify: bool = True
    client_cert: FilePath | None = None
    client_key: FilePath | None = None
    min_version: TlsVersion = "1.2"


class Pop3(msgspec.Struct, frozen=True, kw_only=True):
    """[connector.NAME.pop3]: one maildrop and how to reach it. Times are in seconds."""

    address: Address = msgspec.field(name="host")
    ssl: bool = False
    tls: Tls = "required"
    tls_settings: TlsSettings = TlsSettings()
    user: Account
    password: Secret
    auth: Annotated[tuple[Pop3Method, ...], msgspec.Meta(min_length=1)] = POP3_DEFAULT
    detect: tuple[Detection, ...] = ("capa", "auth", "welcome")
    clear_text: ClearText = "encrypted-only"
    domain: str = ""
    workstation: Workstation = WORKSTATION
    use_top: bool = False
    pipelining: Switch = "auto"
    timeout: Seconds = 60.0


class Smtp(msgspec.Struct, frozen=True, kw_only=True):
    """[smtp], or what a connector makes of it: where mail goes. Addresses are tried in turn; times are in seconds."""

    addresses: Annotated[tuple[Address, ...], msgspec.Meta(min_length=1)] = msgspec.field(name="host")
    ssl: bool = False
    tls: Tls = "required"
    tls_settings: TlsSettings = TlsSettings()
    user: Text | None = None
    password: Secret | None = None
    auth: Annotated[tuple[SmtpMethod, ...], msgspec.Meta(min_length=1)] = SMTP_DEFAULT
    clear_text: ClearText = "encrypted-only"
    protocol: SubmissionProtocol = "smtp"
    helo: Helo | None = None
    timeout: Seconds = 60.0
    data_timeout: Seconds = 600.0  # RFC 5321 4.5.3.2.6
    connections: Connections = 1  # at once
    max_in_flight: InFlight = "auto"  # messages, in each of them


class ServerCopy(msgspec.Struct, frozen=True, kw_only=True):
    """[connector.NAME.server_copy]: what becomes of delivered mail on the POP3 server."""

    leave_copy: bool = True
    remove_after_days: Days | None = None
    remove_after_delivered: bool = False


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """[connector.NAME.routing]: who gets the mail (forward paths) and on whose behalf (the reverse path).

    Without `source_domain` all goes to `send_to`, which is empty only where `no_match` sends nothing there. `target_domain`
    "" is the source domain. `trusted_header` is a field name and its occurrence, from the top ("Delivered-To:1", and no
    number is 1); then no other field is read. `prefix` is taken off local parts in fields that a mail system writes.
    `srs_domain` and `srs_secret` are set exactly if `sender` is "srs".
    """

    send_to: tuple[MailAddress, ...] = ()
    source_domain: Domain = ""
    target_domain: Domain = ""
    headers: Annotated[tuple[FieldName, ...], msgspec.Meta(min_length=1)] = DEFAULT_HEADERS
    trusted_header: TrustedHeader = ""
    prefix: Prefix = ""
    no_match: NoMatch = "send_to"
    sender: Sender = "keep"
    srs_domain: Domain = ""
    srs_secret: Secret | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """[connector.NAME.delivery]: what becomes of mail that is refused, or not as SMTP wants it, and what counts as a loop."""

    on_reject: Literal["badmail", "keep", "discard"] = "badmail"
    retry_days: Days = 5  # of being deferred by its own 4yz, then badmail; 0: at the next pass
    bare_newlines: Literal["fix", "badmail"] = "fix"
    long_lines: Literal["send", "badmail"] = "send"
    nul: Literal["send", "remove", "badmail"] = "send"
    max_hops: Hops = 50


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """[connector.NAME.limits]: how much one pass may do. 0 means no limit; sizes are octets, times seconds."""

    max_messages: Limit = 0
    max_octets: Limit = 0
    max_seconds: SecondsLimit = 3600
    max_message_size: Limit = 100_000_000
    max_held: Limit = 1_000_000_000
    small_first: bool = False


class Connector(msgspec.Struct, frozen=True, kw_only=True):
    """[connector.NAME]: one maildrop, one destination and a policy."""

    name: str
    enabled: bool = True
    poll_every: Minutes = 0.0
    ignore_existing: bool = False
    postmaster: MailAddress | None = None
    pop3: Pop3
    smtp: Smtp
    routing: Routing
    server_copy: ServerCopy = ServerCopy()
    delivery: Delivery = Delivery()
    limits: Limits = Limits()


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """[log]: how much goes into the log, and where it is. Without a folder it is log/ in the state folder."""

    level: LogLevel = 1
    folder: FolderPath | None = None
    keep_days: Days = 30


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole configuration. `path` is the file it came from; relative names inside it start at that file's folder."""

    path: str
    log: Log = Log()
    connectors: tuple[Connector, ...]


_NOT_IN_THE_FILE = frozenset({(Connector, "name"), (Config, "path"), (Config, "connectors")})


class Key(msgspec.Struct, frozen=True):
    """A key of the file: its type, whether it must be there, else its default, and the field it fills.

    `field` has two steps for a key that is flat in the file and gathered in the model: ("tls_settings", "ca_file").
    """

    type: Any
    required: bool
    default: Any
    field: tuple[str, ...]

    def value_in(self, table: msgspec.Struct) -> Any:  # noqa: ANN401 - a value of any key
        """Return this key's value in the struct made from its table."""
        value: Any = table
        for step in self.field:
            value = getattr(value, step)
        return value


@cache
def keys(table: type[msgspec.Struct]) -> dict[str, Key]:
    """Return the keys that the file may have in this table, without the tables below it."""
    found: dict[str, Key] = {}
    for field in _fields(table):
        if field.type is TlsSettings:
            found |= {f"tls_{name}": replace(key, field=(field.name, name)) for name, key in keys(TlsSettings).items()}
        elif not _is_table(field.type) and (table, field.name) not in _NOT_IN_THE_FILE:
            default = None if field.required else field.default
            found[field.encode_name] = Key(field.type, field.required, default, (field.name,))
    return found


@cache
def tables(table: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """Return the tables that the file may have below this one: pop3, smtp, ... below a connector."""
    return {field.encode_name: field.type for field in _fields(table) if _is_table(field.type)}


@cache
def _fields(table: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    return fields(table)  # which takes its time: it evaluates every annotation


def _is_table(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in (Address, Secret, TlsSettings)


def is_secret(kind: object) -> bool:
    """Return whether a key of this type holds a secret, optional or not."""
    return kind is Secret or Secret in get_args(kind)


def secrets_of(connector: Connector) -> Iterator[tuple[str, Secret, str]]:
    """Yield every secret of a connector: its key (connector.NAME.pop3.password), the secret, and the user it is for."""
    for table_name, kind in tables(Connector).items():
        table = getattr(connector, table_name)
        for name, key in keys(kind).items():
            secret = key.value_in(table) if is_secret(key.type) else None
            if secret is not None and secret != NO_SECRET:
                user = getattr(table, "user", None) or ""
                yield f"{dotted(('connector', connector.name, table_name))}.{name}", secret, user


def dotted(path: tuple[str, ...]) -> str:
    """Return a key's path as TOML writes it, quoted where it must be, without control characters."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else quoted(part) for part in path)


def quoted(text: str) -> str:
    """Return a text as a TOML basic string, everything that does not print escaped."""
    return '"' + "".join(_ESCAPES.get(char) or (char if char.isprintable() else _escaped(char)) for char in text) + '"'


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
