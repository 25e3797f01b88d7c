"""Secrets taken out of text before anybody sees it: servers echo commands, passwords included, in what they answer."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

from poprep_cli.protocol.wire import printable

MASK = "********"
SHORT = 4  # characters: a secret below that is masked only as a word of its own, or every text would be full of masks
CUT = "…"  # where `printable` has shortened a text, what is in front may be the start of a secret


class Redactor:
    """Knows the secrets of one pass, in the forms in which they travel: as they are, base64 and hexadecimal."""

    __slots__ = ("_forms", "_known", "_learning", "_pattern", "_secrets")

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._secrets: list[str] = []
        self._learning = threading.Lock()
        self._known = 0  # how many of them are in the pattern

    def know(self, secret: str) -> None:
        """Take in a secret; from now on it is masked."""
        self._secrets.append(secret)

    def _learn(self) -> None:
        """Make the pattern, once there is a text to look at: of two threads that have one, neither goes on without it."""
        with self._learning:
            count = len(self._secrets)
            self._forms = self._forms.union(*map(_forms, self._secrets[self._known : count]))
            self._pattern = _pattern_of(self._forms) if self._forms else None
            self._known = count

    def conceal(self, text: str) -> str:
        """Return a text with everything masked that is known to be secret."""
        if self._known < len(self._secrets):
            self._learn()
        if self._pattern is None:
            return text
        concealed = self._pattern.sub(MASK, text)
        if CUT not in concealed:
            return concealed
        *heads, tail = concealed.split(CUT)
        return "".join(self._without_start(head) + CUT for head in heads) + tail

    def _without_start(self, head: str) -> str:
        """Mask the longest start of a secret at the end of a text that was cut there."""
        lower = head.lower()
        for form in self._forms:
            start = form.lower()
            for length in range(min(len(form), len(head)), SHORT - 1, -1):
                if lower.endswith(start[:length]):
                    return head[:-length] + MASK
        return head

    def over(self, say: Callable[[int, str], None], most: int = 4) -> Callable[[int, str], None]:
        """Return a function that says what `say` does up to level `most`, secrets masked."""

        def concealed(level: int, text: str) -> None:
            if level <= most:
                say(level, self.conceal(text))

        return concealed


def _pattern_of(forms: set[str]) -> re.Pattern[str]:
    longest_first = sorted(forms, key=len, reverse=True)
    whole = (re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)" for form in longest_first)
    return re.compile("|".join(whole), re.IGNORECASE)


def _forms(secret: str) -> Iterator[str]:
    octets = secret.encode()
    if not octets:
        return
    from base64 import b64encode

    yield secret
    yield printable(secret, 4 * len(secret) + 10)  # as it looks with its control characters made visible
    yield printable(octets.decode("latin-1"), 8 * len(octets) + 10)
    yield octets.hex()
    for offset in range(3):  # inside a longer text, as in PLAIN's user NUL password, it may begin at any bit of a group
        encoded = b64encode(bytes(offset) + octets).decode()
        inner = encoded[(0, 2, 3)[offset] : (offset + len(octets)) * 8 // 6]
        if len(inner) >= SHORT:
            yield inner
