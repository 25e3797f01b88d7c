"""Finding lines in TOML texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.config.locate import line_of, lines, split_key

TEXT = '''\
# [smtp] in a comment
title = "[smtp]"
[ smtp ]
host = ["a", # ] no end
  "b]",
]
note = """
[connector.fake]
x = 1 \\""" """
raw = \'\'\'
y = 2\'\'\'
[connector."a.b".pop3] # end
"host" = \'x\'
tls . mode = 1
pop = { user = "u",
  password = "[x]" }
[[list]]
k = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("smtp",), 3),
        (("smtp", "host"), 4),
        (("smtp", "note"), 7),
        (("smtp", "raw"), 10),
        (("smtp", "y"), 3),
        (("connector", "fake"), 12),
        (("connector", "a.b", "pop3"), 12),
        (("connector", "a.b", "pop3", "host"), 13),
        (("connector", "a.b", "pop3", "tls", "mode"), 14),
        (("connector", "a.b", "pop3", "tls"), 14),
        (("connector", "a.b", "pop3", "pop", "user"), 15),
        (("connector", "a.b", "pop3", "missing"), 12),
        (("list", "k"), 18),
        (("nothing",), None),
        ((), None),
    ],
)
def test_line_of(path: tuple[str, ...], line: int | None) -> None:
    assert line_of(lines(TEXT), path) == line


def test_crlf_counts_once() -> None:
    assert lines(TEXT.replace("\n", "\r\n")) == lines(TEXT)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.b", ("a", "b")),
        (" a . 'b.c' ", ("a", "b.c")),
        ('connector."a\\u002eb".x', ("connector", "a.b", "x")),
        ("", None),
        ("a..b", None),
        ("a b", None),
        ("a = 1", None),
        ("a\nb", None),
        ('"\\q"', None),
    ],
)
def test_split_key(text: str, parts: tuple[str, ...] | None) -> None:
    assert split_key(text) == parts


@given(st.text(alphabet="ab.=[]{}\"'#\\\n\r, "))
def test_any_text_can_be_scanned(text: str) -> None:
    count = text.count("\n") + 1
    assert all(1 <= line <= count for line in lines(text).values())
