"""The wire: HTTP, frames, and the link that joins them."""
