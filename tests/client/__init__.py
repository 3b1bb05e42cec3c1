"""The client: unit tests of its parts, of the whole in virtual time, and of the whole against a real node."""
