"""A POP3 mailbox and an SMTP server on loopback, in threads: the world of `poprep demo`, and of the tests.

They speak the protocols in full and, where asked for, misbehave as servers do (`Pop3Faults`, `SmtpFaults`). They are not
meant for a network: they listen on 127.0.0.1 only, know one user, and keep everything in memory.
"""
