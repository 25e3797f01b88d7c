"""The command line: one module per command, and the only place where click and rich appear."""
