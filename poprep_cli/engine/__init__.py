"""The engine: what a pass decides, records, moves and reports."""
