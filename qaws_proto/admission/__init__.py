"""Who may come in and what may pass: origins, addresses, tokens, limits, and the gate that asks them in order."""
