"""Tests of the configuration: reading, editing, secrets, and its commands."""
