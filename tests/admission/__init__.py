"""Tests of the gate and of everything it asks, one file a module."""
