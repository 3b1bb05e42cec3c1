"""The client side of the protocol as one pure function, like the node it speaks to. See `Client`."""

from .config import ClientConfig
from .node import Client

__all__ = ["Client", "ClientConfig"]
