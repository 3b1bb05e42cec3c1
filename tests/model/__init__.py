"""Models of the conversation: one beside the gateway for random histories, and a walk over all short ones."""
