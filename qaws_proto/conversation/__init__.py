"""What is talked about: sessions as logs, and the runs of the agent that write them."""
