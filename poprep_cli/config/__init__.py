"""The configuration: its typed model, reading it, editing it, and where secrets come from."""
