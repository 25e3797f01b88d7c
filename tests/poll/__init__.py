"""Whole passes as a user runs them, against embedded servers that misbehave, and the healthy pass that follows."""
