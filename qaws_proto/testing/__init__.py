"""What tests of a gateway stand on: a node in virtual time with strict clients, a model of a store.

Every misbehaviour that it finds is an AssertionError, so it does not work where assertions are compiled out.
"""

from .client import Client
from .node import NodeUnderTest, configure, token
from .server_stream import ServerStream
from .store import StoreModel

__all__ = ["Client", "NodeUnderTest", "ServerStream", "StoreModel", "configure", "token"]

if not __debug__:
    raise ImportError("qaws_proto.testing judges by assertions: run Python without -O")
