"""SASLprep (RFC 4013): names and passwords in the form in which both sides hash them. Unicode is that of version 3.2."""

from __future__ import annotations


def saslprep(text: str) -> str:
    """Return the prepared text. Raises ValueError for what is prohibited, and for code points that are not assigned.

    What is all ASCII stays as it is, and only for the rest the tables are loaded.
    """
    if text.isascii():
        if not text.isprintable():
            raise ValueError("a control character (RFC 4013 2.3)")
        return text
    import stringprep
    from unicodedata import ucd_3_2_0

    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = ucd_3_2_0.normalize("NFKC", mapped)
    prohibited = (
        stringprep.in_table_a1,
        stringprep.in_table_b1,
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if any(within(char) for char in prepared for within in prohibited):
        raise ValueError("a prohibited or unassigned character (RFC 4013 2.3, 2.5)")
    from_right = [stringprep.in_table_d1(char) for char in prepared]
    mixed = any(from_right) and not (from_right[0] and from_right[-1])
    if mixed or (any(from_right) and any(map(stringprep.in_table_d2, prepared))):  # RFC 3454 6
        raise ValueError("text from right to left mixed with other text (RFC 4013 2.4)")
    return prepared
