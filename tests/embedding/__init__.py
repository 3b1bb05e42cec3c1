"""Tests of the examples in docs/embedding.md."""
