"""Roles and permissions of a token, and the table of who may send what."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qaws_proto import Gateway, WebSocketConfig
from qaws_proto.admission.authorization import Authorization, names_in
from qaws_proto.config import AuthorizationConfig, ConfigError
from qaws_proto.events import ClientEvent
from qaws_proto.extension import EventContext, EventType
from qaws_proto.testing.node import SECRET, configure, counter, token
from tests.helpers.keys import key_set, pair
from tests.helpers.node import NodeUnderTest

ROLES = ["admin", "user", "guest"]
TYPES = ["chat_message", "cancel", "resume", "feedback"]

# ── claims ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CLAIMS: list[tuple[dict[str, Any], str, set[str]]] = [
    ({"roles": ["admin", "user"]}, "roles", {"admin", "user"}),
    ({"roles": "admin user"}, "roles", {"admin", "user"}),
    ({"roles": " admin\tuser "}, "roles", {"admin", "user"}),
    ({"roles": "admin,user"}, "roles", {"admin,user"}),
    ({"scope": "a:b c"}, "scope", {"a:b", "c"}),
    ({"realm_access": {"roles": ["admin"]}}, "realm_access.roles", {"admin"}),
    ({"a": {"b": {"c": "x"}}}, "a.b.c", {"x"}),
    ({"https://qaws.example/roles": ["admin"]}, "https://qaws.example/roles", {"admin"}),
    ({"a.b": ["x"], "a": {"b": ["y"]}}, "a.b", {"x"}),
    ({}, "roles", set()),
    ({"roles": None}, "roles", set()),
    ({"roles": 7}, "roles", set()),
    ({"roles": True}, "roles", set()),
    ({"roles": {"admin": True}}, "roles", set()),
    ({"roles": ["admin", 1, None, ["user"], {}]}, "roles", {"admin"}),
    ({"a": "b"}, "a.b", set()),
    ({"a": ["b"]}, "a.b", set()),
    ({"": "x"}, ".", set()),
]


@pytest.mark.parametrize(("claims", "path", "names"), CLAIMS)
def test_names_are_found_in_a_claim(claims: dict[str, Any], path: str, names: set[str]) -> None:
    assert names_in(claims, path) == names


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────

tables = st.dictionaries(st.sampled_from(TYPES), st.lists(st.sampled_from([*ROLES, "*"]), max_size=3))


@given(tables, st.sets(st.sampled_from(ROLES)), st.sets(st.sampled_from(TYPES)), st.sampled_from(TYPES))
def test_an_event_is_for_its_roles_for_whoever_is_permitted_or_for_all(
    table: dict[str, list[str]], roles: set[str], permissions: set[str], event: str
) -> None:
    authorization = Authorization(AuthorizationConfig(events=table))
    listed = table.get(event)
    expected = listed is None or "*" in listed or any(role in listed for role in roles) or event in permissions
    assert authorization.allows(event, frozenset(roles), frozenset(permissions)) is expected


def test_the_star_is_for_everybody_and_no_role_of_a_token() -> None:
    authorization = Authorization(AuthorizationConfig(events={"cancel": ["admin"]}))
    assert not authorization.allows("cancel", frozenset({"*"}), frozenset({"*"}))


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ({"auth": ["admin"]}, "auth and ping are for everybody"),
        ({"ping": ["*"]}, "auth and ping are for everybody"),
        ({"a b": ["admin"]}, "pattern"),
        ({"cancel": [""]}, "at least 1 character"),
        ({"cancel": "admin"}, "valid list"),
    ],
)
def test_what_is_no_table_is_refused(events: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        AuthorizationConfig.model_validate({"events": events})


# ── a node ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Feedback(ClientEvent):
    """An event of a user's own."""

    type: Literal["feedback"]


def protected(events: dict[str, list[str]], **more: Any) -> WebSocketConfig:
    authentication = {"enabled": True, "jwt_secret": SECRET, **more.pop("authentication", {})}
    return configure(security={"authentication": authentication, "authorization": {"events": events, **more}})


def welcome(node: NodeUnderTest, **claims: Any) -> Any:
    client = node.upgrade(f"Authorization: Bearer {token('ana', unix=node.now.unix, **claims)}")
    client.expect_system("connection_established")
    return client


def test_without_a_table_everybody_may_chat() -> None:
    node = NodeUnderTest(protected({}))
    client = welcome(node)
    client.chat(id="m1")
    client.expect_system("message_accepted")


def test_whose_token_does_not_allow_it_is_refused_and_stays() -> None:
    node = NodeUnderTest(protected({"chat_message": ["user", "admin"], "cancel": []}))
    guest, user = welcome(node, roles=["guest"]), welcome(node, roles="user more")
    guest.chat(id="m1")
    guest.expect_error("FORBIDDEN", correlation_id="m1")
    guest.send({"type": "ping"})
    guest.expect_event("pong")
    assert node.runs == {}
    user.chat(id="m1")
    user.expect_system("message_accepted")
    user.send({"type": "cancel", "correlation_id": "m1"})
    user.expect_error("FORBIDDEN")
    assert node.only_run not in node.cancelled
    guest.expect_silence()


def test_a_permission_of_the_token_allows_an_event_too() -> None:
    node = NodeUnderTest(protected({"chat_message": ["admin"]}, permissions_claim="scope", roles_claim="groups.all"))
    welcome(node, scope="read chat_message").chat()
    assert len(node.runs) == 1
    welcome(node, groups={"all": ["admin"]}).chat()
    assert len(node.runs) == 2
    other = welcome(node, permissions=["chat_message"], roles=["admin"])
    other.chat()
    other.expect_error("FORBIDDEN")


def test_checks_and_handlers_see_roles_and_permissions() -> None:
    seen: list[object] = []

    def take(context: EventContext, event: ClientEvent) -> None:
        seen.append((context.principal.roles, context.principal.permissions))

    model = EventType(Feedback, take)
    node = NodeUnderTest(protected({"feedback": ["user"]}), events=[model])
    allowed, refused = welcome(node, roles=["user"], permissions=["x"]), welcome(node, roles=["admin"])
    for client in (allowed, refused):
        client.send({"type": "feedback"})
    assert seen == [(frozenset({"user"}), frozenset({"x"}))]
    refused.expect_error("FORBIDDEN")
    allowed.expect_silence()


@pytest.mark.row("D6")
def test_an_event_that_the_node_does_not_know_refuses_to_start() -> None:
    with pytest.raises(ConfigError, match=r"no event 'chatmessage'.* chat_message"):
        Gateway(protected({"chatmessage": ["user"]}), ids=counter())
    with pytest.raises(ConfigError, match="no event 'feedback'"):
        Gateway(protected({"feedback": ["user"]}), ids=counter())


def test_without_authentication_a_listed_event_is_for_nobody() -> None:
    node = NodeUnderTest(
        configure(security={"authentication": {"enabled": False}, "authorization": {"events": {"cancel": ["admin"]}}})
    )
    client = node.connect()
    client.send({"type": "cancel", "run_id": "r"})
    client.expect_error("FORBIDDEN")


@pytest.mark.row("A4")
def test_the_roles_of_a_refreshed_token_hold_from_then_on() -> None:
    """Also where the new one is of another key and algorithm."""
    key = pair("ES256")
    node = NodeUnderTest(
        protected({"chat_message": ["user"]}, authentication={"jwks": "https://keys.example/set"}),
    )
    node.settle()
    node.give_keys(key_set(key.jwk()))
    client = welcome(node, roles=["user"])
    client.chat()
    assert len(node.runs) == 1
    node.finish(node.only_run, "done")
    client.forget()
    client.send({"type": "auth", "token": key.token("ana", unix=node.now.unix, roles=["guest"])})
    client.expect_system("token_refreshed")
    client.chat()
    client.expect_error("FORBIDDEN")
    client.send({"type": "auth", "token": key.token("ana", unix=node.now.unix, roles=["user"])})
    client.expect_system("token_refreshed")
    client.chat()
    assert len(node.runs) == 1
    client.send({"type": "auth", "token": key.token("eva", unix=node.now.unix, roles=["user"])})
    client.forget()
    assert client.stream.closed == (4401, "auth failed")
