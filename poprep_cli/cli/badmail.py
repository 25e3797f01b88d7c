"""`poprep badmail` and `poprep held`: mail that was refused, and mail that waits for the SMTP server."""

from __future__ import annotations

from poprep_cli.cli.kept import group

badmail = group(
    "badmail",
    """Look at, send again, save or drop mail that was refused.

    Mail that the SMTP server refuses for good is kept here, octet by octet as it came, with the server's words. Its
    copy stays in the mailbox too.
    """,
)
held = group(
    "held",
    """Look at, send, save or drop mail that waits for the SMTP server.

    Mail that was downloaded and that the SMTP server doesn't take for now is kept here, and each pass tries it again.
    """,
)
