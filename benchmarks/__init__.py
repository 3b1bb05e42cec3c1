"""How fast the gateway is, beside others that do the same work: `python -m benchmarks` (docs/benchmarks.md)."""
