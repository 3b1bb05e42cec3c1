"""Tests of sessions, their logs, and runs."""
