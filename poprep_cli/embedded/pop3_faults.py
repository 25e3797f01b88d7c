"""What can be wrong with a POP3 server, as data. Every field describes one fault; without any the server is flawless."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

RetrFault = Literal["err", "drop-mid", "hang-mid", "cut", "drip"]
Sizes = Callable[[int, int], int] | Mapping[int, int]
Rule = bytes | Literal["hang", "drop"] | Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pop3Faults:
    """The faults of a server. Texts are whole replies with their CRLF, sent as they are; times are in seconds.

    General:

    * `replies`: by verb ("LIST", "STAT", ...), what is sent in place of the answer: octets, "hang", "drop", or a
      function of the argument that returns octets, or None for the usual answer. The command then has no effect.
    * `latency`: before every group of replies, as with a distant server.
    * `breaks_when_pipelined`: commands that arrived together with another one: the line drops, or they are ignored.

    AUTHORIZATION:

    * `greeting` in place of the usual one (with `{timestamp}` replaced), `greeting_delay`, `no_greeting`: silence.
    * `capa`: the answer to CAPA never comes, the line drops, -ERR, or other capabilities than the server's.
    * `announce_pipelining`: False keeps PIPELINING, which still works, from the list.
    * `stls`: refused, the handshake never comes, or the line drops after +OK. `stls_injected` is sent in the clear
      together with the +OK.
    * `apop`: False leaves the timestamp out and refuses APOP.
    * `refuse_user` and `refuse_apop`: the answer to PASS and APOP, whatever the password.
    * `drop_after_failed_login`; `echo_password_in_error`: the refusal has the password (or digest) in it.

    TRANSACTION:

    * `retr`: by message number. "err": -ERR; "drop-mid" and "hang-mid": half of it, then the line drops, or nothing
      more comes; "cut": half of it, properly ended; "drip": one octet every `drip_seconds`.
    * `retr_drop_after`: so many messages in the server's life, then the line drops at every RETR.
    * `list_sizes`: octets for LIST and STAT from number and true size, or by number.
    * `uidl`: by number, what UIDL says (duplicates and b"" are allowed), or "err".
    * `list_limit`: a session sees this many of the oldest messages. `hide_read`: after RETR and QUIT a message is not
      listed any more. `delete_on_retr`: RETR removes. With both CAPA has EXPIRE 0, as Gmail's.
    * `dele`: -ERR, +OK without effect, the line drops, or an empty line comes and then the line drops.
    * `top_refused`; `truncate_top`: TOP gives so many octets at most, properly ended.

    UPDATE:

    * `quit`: -ERR and nothing is removed, the line drops before or after the removal, or nothing happens at all.
    """

    replies: Mapping[str, Rule] = field(default_factory=dict)
    latency: float = 0.0
    breaks_when_pipelined: Literal["drop", "discard"] | None = None
    greeting: bytes | None = None
    greeting_delay: float = 0.0
    no_greeting: bool = False
    capa: Literal["hang", "drop", "err"] | tuple[bytes, ...] | None = None
    announce_pipelining: bool = True
    stls: Literal["refuse", "hang", "drop"] | None = None
    stls_injected: bytes = b""
    apop: bool = True
    refuse_user: bytes | None = None
    refuse_apop: bytes | None = None
    drop_after_failed_login: bool = False
    echo_password_in_error: bool = False
    retr: Mapping[int, RetrFault] = field(default_factory=dict)
    drip_seconds: float = 0.05
    retr_drop_after: int | None = None
    list_sizes: Sizes | None = None
    uidl: Mapping[int, bytes] | Literal["err"] | None = None
    list_limit: int | None = None
    hide_read: bool = False
    delete_on_retr: bool = False
    dele: Literal["err", "ignore", "drop", "empty-line"] | None = None
    top_refused: bool = False
    truncate_top: int | None = None
    quit: Literal["err", "drop-before-commit", "drop-after-commit", "hang"] | None = None

    def size(self, number: int, octets: int) -> int:
        """Return what LIST says of a message that has so many octets."""
        if self.list_sizes is None:
            return octets
        if callable(self.list_sizes):
            return self.list_sizes(number, octets)
        return self.list_sizes.get(number, octets)
