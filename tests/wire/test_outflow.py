"""The way out of one connection."""

from __future__ import annotations

import pytest

from qaws_proto.effects import SendBytes
from qaws_proto.outbox import Outbox
from qaws_proto.wire.outflow import Outflow


def test_frames_go_out_at_once_while_the_way_is_free() -> None:
    outbox = Outbox()
    out = Outflow(7, outbox)
    out.send(b"a", 1)
    out.pong(b"p")
    assert outbox.take() == [SendBytes(7, b"ap")]
    assert out.held == 0


@pytest.mark.row("F7")
def test_blocked_frames_wait_in_order_and_of_the_pongs_the_newest() -> None:
    outbox = Outbox()
    out = Outflow(7, outbox)
    out.blocked = True
    out.send(b"a", 1)
    out.pong(b"first")
    out.send(b"bc", 2)
    out.pong(b"newest")
    assert outbox.take() == []
    assert (out.queued, out.held) == (3, 9)
    out.release()
    assert outbox.take() == [SendBytes(7, b"abcnewest")]
    assert (out.blocked, out.queued, out.held) == (False, 0, 0)
    out.release()
    assert outbox.take() == []


def test_what_is_cleared_is_never_sent() -> None:
    outbox = Outbox()
    out = Outflow(7, outbox)
    out.blocked = True
    out.send(b"a", 1)
    out.pong(b"p")
    out.clear()
    assert out.held == 0
    out.release()
    assert outbox.take() == []
