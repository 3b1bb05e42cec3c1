"""How well the tests hold the core: branch coverage, and a mutation score."""
