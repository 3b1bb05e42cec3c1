"""An experiment for each setting, that shows what it changes: `tests/test_options.py` runs them."""
