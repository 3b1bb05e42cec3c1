"""What is said in a session is what its model would say: the same bytes, whatever the texts are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qaws_proto.clock import Now, Timers
from qaws_proto.config import LimitsConfig, SessionsConfig
from qaws_proto.conversation.run import Run
from qaws_proto.conversation.session import Session, Sessions
from qaws_proto.conversation.voice import Voice
from qaws_proto.events import ChatMessage, dump, parse_server_event
from qaws_proto.faults import Fault
from qaws_proto.testing.strategies import contents
from qaws_proto.wire.frames import Encoded

NOW = Now(1000.0, 1_700_000_000.0)
names = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


class Hearer:
    """A reader that keeps what it hears."""

    number = 1
    ready = True

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    def say(self, message: Encoded) -> None:
        self.heard.append(message.payload)

    def tell(self, message: Encoded, now: Now) -> None:
        raise AssertionError("all is of the log")

    def fall_behind(self, now: Now) -> None:
        raise AssertionError("it keeps up")


def made(content: str, message_id: str | None) -> tuple[Session, Run, Hearer]:
    table = Sessions(SessionsConfig(), LimitsConfig(), Timers(), bounded=True, durable=False)
    session, hearer = table.make("añа", 's"1', "epoch"), Hearer()
    session.attach(hearer)
    message = ChatMessage(type="chat_message", content=content, id=message_id)
    return session, Run("0" * 32, session, "añа", message, "user añа", NOW), hearer


@given(
    contents().filter(bool), names, contents(), names, st.floats(0, 1e6), st.sampled_from(("reasoning", "tool_started"))
)
def test_every_event_is_what_its_model_dumps(
    content: str, message_id: str | None, answer: str, name: str | None, seconds: float, kind: str
) -> None:
    session, run, hearer = made(content[:10_000], message_id)
    voice = Voice(None)
    run.position = 2
    voice.accept(run, NOW)
    voice.start(run, NOW)
    voice.step(run, kind, name, answer or None, NOW)  # type: ignore[arg-type]  # it is one of them
    voice.chunk(run, answer, NOW)
    run.reasoning.append(answer)
    run.use(name or "")
    voice.respond(run, answer, "completed", seconds, NOW)
    voice.respond(run, "", "cancelled", 0.0, NOW)
    voice.fail(run, Fault.AGENT_ERROR, {"error_id": "e"}, NOW)
    assert len(hearer.heard) == (7 if message_id is not None else 5)
    for number, payload in enumerate(hearer.heard, 1):
        event = parse_server_event(payload)
        assert dump(event) == payload
        assert (event.seq, event.session_id) == (number, session.id)  # type: ignore[union-attr]  # all have them
        assert event.correlation_id == message_id  # type: ignore[union-attr]
