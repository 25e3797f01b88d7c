"""What can be wrong with an SMTP server, as data. Every field describes one fault; without any the server is flawless."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal[
    "greeting",
    "ehlo",  # EHLO and LHLO
    "helo",
    "starttls",
    "auth",  # the AUTH command
    "auth-response",  # each response to a challenge
    "mail",
    "rcpt",
    "data",  # the DATA command
    "bdat",  # each BDAT command, its octets received
    "mid-data",  # the first octets of a message were received, by DATA or BDAT
    "end-of-data",  # the message was received, and is not yet stored
    "after-accept",  # the message is stored, and not yet replied to
    "rset",
    "noop",
    "quit",
]
Rule = bytes | Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpFaults:
    """The faults of a server. Replies are whole, with their CRLF, and sent as they are; times are in seconds.

    * `replies`: by stage, what is said in place of the usual reply: octets, or a function that returns octets, or None
      for the usual reply. Its argument is that of the command: for "mail" and "rcpt" the path without < and >, for
      "end-of-data" the content (in LMTP mode it is asked once a recipient), for "auth-response" the whole line. The
      command has its effect only if the reply is a whole one with the code that says so: 2yz, for "data" 3yz; after AUTH
      and its responses 3yz waits for one more. There is none for "mid-data" and "after-accept".
    * `recipients`: by forward path, the reply to RCPT. `recipients_after_data`: the same for LMTP's replies at the end.
    * `drop` and `hang`: at this stage the line breaks, or nothing is said any more.
    * `delay`: by stage, before the reply.
    * `only`: by stage, in which of its occurrences the faults above apply, counted from 1 over the server's life. A
      stage that is not in there is faulty always. A `range` will do: range(3, 99) is "from the third on".
    * `announce`: the lines after the first of the reply to EHLO. `refuse_ehlo`: 502, so that HELO is left.
      `endless_ehlo`: its reply never ends.
    * `starttls_injected`: sent in the clear together with the reply to STARTTLS.
    * `knows_no_bdat`: although it is announced, BDAT is an unknown command, and the octets after it are commands too.
    * `breaks_when_pipelined`: commands that arrived together with another one: the line drops, or they are ignored.
    * `max_connections`: at once; one more gets 421. `max_messages`: in one session; for one more MAIL gets 421, and
      the line drops.
    * `latency`: before every group of replies, as with a distant server.
    """

    replies: Mapping[Stage, Rule] = field(default_factory=dict)
    recipients: Mapping[bytes, bytes] = field(default_factory=dict)
    recipients_after_data: Mapping[bytes, bytes] = field(default_factory=dict)
    drop: Stage | None = None
    hang: Stage | None = None
    delay: Mapping[Stage, float] = field(default_factory=dict)
    only: Mapping[Stage, Container[int]] = field(default_factory=dict)
    announce: tuple[bytes, ...] | None = None
    refuse_ehlo: bool = False
    endless_ehlo: bool = False
    starttls_injected: bytes = b""
    knows_no_bdat: bool = False
    breaks_when_pipelined: Literal["drop", "discard"] | None = None
    max_connections: int | None = None
    max_messages: int | None = None
    latency: float = 0.0

    def concerns(self, stage: Stage, occurrence: int) -> bool:
        """Return whether the faults of a stage apply to this occurrence of it."""
        return stage not in self.only or occurrence in self.only[stage]
