"""poprep downloads mail from POP3 mailboxes and forwards it to an SMTP server."""

__version__ = "0.1.0"
