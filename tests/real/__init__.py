"""Tests against private instances of real servers, and those instances."""
