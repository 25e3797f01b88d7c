"""Tests of poprep."""
