"""The harness of the product, with what this project promises beyond it: each note is as its page says."""

from __future__ import annotations

from qaws_proto.effects import Note
from qaws_proto.testing import node
from tests.helpers.notes import check


class NodeUnderTest(node.NodeUnderTest):
    """A node whose notes are held to docs/logging.md."""

    def noted(self, note: Note) -> None:
        check(note)
        super().noted(note)
