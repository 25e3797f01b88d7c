"""SASL mechanisms (RFC 4422), without I/O: challenges in, responses out. One set serves AUTH on POP3 and on SMTP."""
