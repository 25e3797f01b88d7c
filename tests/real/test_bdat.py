"""Hundreds of letters by BDAT to Postfix, many of them in flight: all arrive, octet for octet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from poprep_cli.config.model import Address, Smtp
from poprep_cli.net.stop import Stop
from poprep_cli.net.submission import Submission
from tests.net.test_bdat import Paper, fly
from tests.real.postfix import Postfix, own_fields, stored_form

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    refusing = "check_recipient_access inline:{nobody@corp.example=REJECT}"
    with Postfix(extra=f"smtpd_recipient_restrictions = {refusing}, permit_mynetworks, reject") as server:
        yield server


def connect(postfix: Postfix) -> Submission:
    smtp = Smtp(addresses=(Address("127.0.0.1", postfix.port),), tls="off")
    return Submission.open(smtp, Stop(), chunking=True)


def stored(postfix: Postfix) -> list[bytes]:
    """Return what has arrived, without Postfix's own fields."""
    postfix.settle()
    return sorted(message[own_fields(message) :] for message in postfix.take().values())


@pytest.mark.parametrize("limit", [8, 64])
def test_all_arrive(postfix, limit) -> None:
    letters = [Paper(number, (b"joe@corp.example",), size=4000) for number in range(300)]
    letters[150] = Paper(150, (b"joe@corp.example",), size=3_000_000)
    submission = connect(postfix)
    assert submission.chunking
    flight = fly(submission, letters, limit)
    submission.quit()
    assert flight.numbers("accepted") == list(range(300))
    assert flight.deepest == limit
    assert stored(postfix) == sorted(stored_form(letter.content) for letter in letters)


@pytest.mark.parametrize("size", [0, 2_000_000])
def test_a_refused_recipient_in_the_middle(postfix, size) -> None:
    # Postfix keeps the transaction open whose recipients it has all refused.
    letters = [Paper(number, (b"joe@corp.example",)) for number in range(60)]
    letters[20] = Paper(20, (b"nobody@corp.example",), size=size)
    letters[40] = Paper(40, (b"joe@corp.example", b"nobody@corp.example"), size=size)
    submission = connect(postfix)
    flight = fly(submission, letters, 16)
    submission.quit()
    assert flight.numbers("rejected") == [20, 40]
    assert flight.numbers("accepted") == [number for number in range(60) if number != 20]
    expected = [stored_form(letter.content) for letter in letters if letter.number != 20]
    assert stored(postfix) == sorted(expected)
