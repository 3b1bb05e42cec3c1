"""Servers and client against the Autobahn|Testsuite: docs/conformance.md."""
