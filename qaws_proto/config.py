"""Every setting of a node: its name, default, bounds, unit and reason. Pure: files and environment are read elsewhere.

The names of the `websocket:` section in PROTOCOL ("Configuration") come first; the rest stands beside them. Durations
are seconds, sizes are bytes unless a name says otherwise.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .strength import MAKE_ONE, too_short, weakness

MESSAGE_SIZE_TOP = 1024 * 1024  # the hard top of `max_message_size`: one message is validated in one piece
DEFLATE_OVERHEAD = 64 * 1024  # bytes of a compressed message beyond `max_message_size`: blocks have heads (F5)
DEFLATE_SLICE = 4 * 1024  # bytes of a compressed message that wait to be inflated together (C7)

NO_SECRET = (
    "security.authentication.jwt_secret: authentication is on and there is no secret; set it (for instance to "
    '"${WEBSOCKET_JWT_SECRET}"), set WEBSOCKET_SECRET_KEY, name a public_key_file or jwks, or turn authentication off'
)

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Size = Annotated[int, Field(ge=256, le=1 << 30)]
Rate = Annotated[int, Field(ge=1, le=1_000_000)]  # 8 to 16 bytes each are held for a minute

DoubleText = Literal["enqueue", "reject", "interrupt", "concurrent"]

UNIX = "unix"  # in `trusted_proxies`: peers that have no address
UNIX_PATH_BYTES = 107  # of a Unix socket on Linux (unix(7)); elsewhere a few less, which the system then says

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})\Z")
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(\d{1,5}|\*))?\Z")
_URL = re.compile(r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?(/[!-~]*)?\Z")


class ConfigError(ValueError):
    """The configuration cannot be used as it is; the text says which setting and what to do. Holds no secrets."""


def _network(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        # `ipaddress` would quote what it was given, and a secret may be in the wrong place.
        raise ValueError("a network is an address or a CIDR, such as 192.0.2.0/24 or 2001:db8::/32") from None
    return text


def _origin(text: str) -> str:
    origin = text.lower()
    if origin != "*" and not _ORIGIN.match(origin):
        raise ValueError("an origin is scheme://host[:port] with nothing after it, such as http://localhost:3000")
    return origin


def _proxy(text: str) -> str:
    return text if text == UNIX else _network(text)


def host_and_port(address: str) -> tuple[str, int] | None:
    """An entry of `server.listen` as host and port; None where it is no such address."""
    match = _HOST_AND_PORT.match(address)
    return None if match is None or match[1] in ("fd", UNIX) else (match[1].strip("[]"), int(match[2]))


def _listen_address(text: str) -> str:
    inherited = text == "systemd" or re.fullmatch(r"fd:\d{1,7}", text)
    unix = text.startswith("unix:") and 0 < len(text[5:].encode()) <= UNIX_PATH_BYTES and "\0" not in text
    tcp = host_and_port(text)
    if not (inherited or unix or (tcp is not None and tcp[1] <= 65_535)):
        raise ValueError("an address to listen on is host:port, [IPv6]:port, unix:/path, fd:number or systemd")
    return text


def _key_set(text: str) -> str:
    if "://" not in text:
        return text
    url = _URL.match(text)
    if url is None or "#" in text:
        raise ValueError("a key set is a file, or an https:// address without a user and without #")
    if url[1] == "http" and not is_loopback(url[2].strip("[]")):
        raise ValueError("a key set comes by https://; http:// is for this very machine (localhost) alone")
    return text


Token = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]  # RFC 9110 section 5.6.2
Network = Annotated[str, AfterValidator(_network)]
Proxy = Annotated[str, AfterValidator(_proxy)]
ListenAddress = Annotated[str, AfterValidator(_listen_address)]
Origin = Annotated[str, AfterValidator(_origin)]
KeySet = Annotated[str, Field(min_length=1), AfterValidator(_key_set)]
EventName = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
Role = Annotated[str, Field(min_length=1, max_length=128)]


def networks(cidrs: list[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """The CIDR texts of a setting as networks; `unix` is none."""
    return tuple(ip_network(cidr, strict=False) for cidr in cidrs if cidr != UNIX)


class Section(BaseModel):
    """A part of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_only_where_asked(cls, value: object, info: ValidationInfo) -> object:
        # Python counts True as 1, and so does Pydantic: `port: true` would listen on port 1.
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true and false have no meaning here")
        return value


class CompressionConfig(Section):
    """permessage-deflate (RFC 7692), each message for itself."""

    enabled: bool = Field(
        default=False,
        description="compress for clients that offer it; it costs time, and tells of a message by its size",
    )
    level: int = Field(
        default=1, ge=1, le=9, description="1 is the fastest, 9 the smallest; nothing else is done meanwhile"
    )
    min_size: int = Field(
        default=128, ge=0, le=1 << 30, description="bytes of a message below which it is not compressed"
    )


class ServerConfig(Section):
    """Where the node listens and how long it waits for a silent peer."""

    host: str = Field(default="localhost", min_length=1, description="address to listen on")
    port: int = Field(default=8765, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    listen: list[ListenAddress] = Field(
        default=[],
        description="addresses to listen on instead of `host` and `port`: `host:port`, `[IPv6]:port`, `unix:/path`, "
        "`fd:number`, `systemd`",
    )
    unix_mode: str | None = Field(
        default=None,
        pattern=r"^0?[0-7]{3}$",
        description="permissions of `unix:` sockets, such as 660; not set: what the umask leaves",
    )
    path: str = Field(default="/", pattern=r"^/[!-~]*$", description="path of the WebSocket")
    max_connections: Count = Field(default=100, description="open connections on the node; more are refused with 503")
    timeout: Seconds = Field(default=30, description="seconds a peer has to answer a ping")
    heartbeat_interval: Seconds = Field(default=30, description="seconds of silence after which the server pings")
    allowed_hosts: list[str] = Field(default=[], description="host names served (DNS rebinding); empty: any")
    trusted_proxies: list[Proxy] = Field(
        default=[], description="CIDRs of proxies that are believed (H13); `unix`: peers on Unix sockets"
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = Field(
        default="x-forwarded-for",
        description="where those proxies write the client's address; the other header is ignored",
    )
    compression: CompressionConfig = CompressionConfig()

    @property
    def hosts(self) -> list[str]:
        """The hosts listened on, as far as the settings name them."""
        tcp = (host_and_port(address) for address in self.listen)
        return [found[0] for found in tcp if found is not None] if self.listen else [self.host]


class AuthenticationConfig(Section):
    """Who may speak: JSON Web Tokens (RFC 7519)."""

    enabled: bool = Field(default=True, description="off: everybody is `anonymous`, or who the message says")
    allow_public: bool = Field(default=False, description="let `enabled: false` stand where others can reach the node")
    allow_weak_secret: bool = Field(default=False, description="let a secret of less than 32 bytes stand")
    jwt_secret: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("jwt_secret", "secret_key"),
        description="HMAC secret, at least 32 bytes that cannot be guessed",
    )
    algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] = Field(
        default="HS256",
        description="signature algorithm of the one key: of `jwt_secret` (HS256), or of `public_key_file`",
    )
    public_key_file: str | None = Field(
        default=None, min_length=1, description="PEM file with the public key that verifies tokens of `algorithm`"
    )
    private_key_file: str | None = Field(
        default=None, min_length=1, description="PEM file that `qaws token` signs with; servers do not read it"
    )
    previous_secret: SecretStr | None = Field(
        default=None, description="secret before `jwt_secret`, good until `previous_secret_until` (A7)"
    )
    previous_secret_until: AwareDatetime | None = Field(
        default=None, description="date and time with a zone (2026-01-31T12:00:00Z), or unix seconds"
    )
    jwks: KeySet | None = Field(
        default=None, description="JSON Web Key Set with the keys of tokens: an https:// address, or a file (A7)"
    )
    jwks_refresh: Seconds = Field(default=300, description="seconds until a key set or `public_key_file` is read again")
    jwks_timeout: float = Field(default=5, gt=0, le=30, description="seconds for one reading of a key set")
    jwks_interval: Seconds = Field(
        default=60, description="seconds between two readings at least, however many tokens name unknown keys (A7)"
    )
    token_expiry: int = Field(default=3600, ge=1, le=86_400, description="seconds a token issued here lives")
    issuer: str = Field(default="qa-intelligence", min_length=1, description="`iss` of a token")
    audience: str = Field(default="websocket-client", min_length=1, description="`aud` of a token")
    timeout: Seconds = Field(default=10, description="seconds a client has to send its first token")
    leeway: float = Field(default=30, ge=0, le=300, description="seconds that clocks may differ")
    max_lifetime: int = Field(
        default=86_400, ge=1, le=86_400, description="longest accepted `exp` minus `iat`, seconds"
    )
    allow_query_token: bool = Field(
        default=False, description="accept ?token=… in the address (it ends up in logs of proxies)"
    )

    @property
    def key_source(self) -> str | None:
        """What keys are loaded from while the node runs, an address or a file; None where there is no such thing."""
        return self.jwks or self.public_key_file

    @model_validator(mode="after")
    def _keys_go_together(self) -> AuthenticationConfig:
        symmetric = self.algorithm == "HS256"
        if symmetric and (self.public_key_file or self.private_key_file):
            raise ValueError("algorithm: HS256 has no key file; set RS256, ES256 or EdDSA, whichever the key is for")
        if self.jwt_secret is not None and not symmetric:
            raise ValueError(f"jwt_secret: a secret is for HS256 alone, and algorithm is {self.algorithm}; drop one")
        if self.jwks is not None and self.public_key_file is not None:
            raise ValueError("public_key_file: it stands beside jwks; put the key into the set, or drop one of them")
        if self.previous_secret is not None and self.jwt_secret is None:
            raise ValueError("previous_secret: there is no jwt_secret that came after it")
        if (self.previous_secret is None) is not (self.previous_secret_until is None):
            raise ValueError("previous_secret and previous_secret_until: the one needs the other")
        return self

    @field_validator("jwt_secret", "previous_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if secret is None:
            return None
        try:
            short = too_short(secret.get_secret_value())
        except UnicodeEncodeError:
            # That exception holds the secret.
            raise ValueError(f"the secret is not valid UTF-8; {MAKE_ONE}") from None
        if short and not info.data.get("allow_weak_secret"):
            raise ValueError(weakness(secret.get_secret_value()))
        return secret


class CorsConfig(Section):
    """Which web pages may connect: exact origins (RFC 6454). Programs send no Origin and are not held by this."""

    enabled: bool = Field(default=True, description="off: no web page may connect")
    origins: list[Origin] = Field(
        default=["http://localhost:*", "http://127.0.0.1:*"],
        description="exact origins; a port `*` stands for any port, a lone `*` for any origin",
    )
    credentials: bool = Field(
        default=False,
        description="let pages send cookies, for a proxy in front that lets people in by them; not with the origin `*`",
    )
    methods: list[Token] = Field(default=["GET", "POST"], description="answered to a preflight request")
    headers: list[Token] = Field(
        default=["Content-Type", "Authorization"], description="answered to a preflight request"
    )


class RateLimitingConfig(Section):
    """How many messages are let in, of a user on all connections together, of an address, and on the node."""

    enabled: bool = Field(default=True, description="off: no limit on messages")
    dry_run: bool = Field(
        default=False,
        description="what these limits, `limits.connections_per_minute` and `agent.budget` would refuse passes, and is "
        "logged",
    )
    requests_per_minute: int = Field(
        default=60,
        ge=1,
        le=100_000,
        validation_alias=AliasChoices("requests_per_minute", "max_requests_per_minute"),
        description="messages in every sliding window of 60 s",
    )
    burst_size: int = Field(default=10, ge=1, le=100_000, description="messages in every sliding window of 1 s")
    address_requests_per_minute: Rate | None = Field(
        default=None,
        description="messages of one address, IPv6 by /64, of all its users together, in every sliding window of 60 s; "
        "not set: no such limit",
    )
    address_burst_size: Rate | None = Field(
        default=None, description="messages of one address in every sliding window of 1 s; not set: no such limit"
    )
    node_requests_per_minute: Rate | None = Field(
        default=None, description="messages on the node in every sliding window of 60 s; not set: no such limit"
    )
    node_burst_size: Rate | None = Field(
        default=None, description="messages on the node in every sliding window of 1 s; not set: no such limit"
    )
    max_keys: Count = Field(
        default=100_000, description="users, and addresses, remembered by each limit; the rest share one"
    )
    strikes: Count = Field(default=5, description="refusals in a row after which the connection is closed")


class SslConfig(Section):
    """TLS at the listener."""

    enabled: bool = Field(default=False, description="serve wss:// instead of ws://")
    cert_file: str | None = Field(default=None, description="PEM file with the certificate chain")
    key_file: str | None = Field(default=None, description="PEM file with the private key")
    client_ca_file: str | None = Field(
        default=None, description="PEM file with authorities; then clients need a certificate signed by one of them"
    )


class AddressesConfig(Section):
    """Which addresses may connect at all."""

    allow: list[Network] = Field(default=[], description="CIDRs allowed; empty: all")
    block: list[Network] = Field(default=[], description="CIDRs refused, whatever `allow` says")


class AuthorizationConfig(Section):
    """Which events a token allows. What is not listed is allowed to everybody."""

    roles_claim: str = Field(
        default="roles", min_length=1, description="claim with the roles: a list or a text; `a.b` is b within a"
    )
    permissions_claim: str = Field(
        default="permissions", min_length=1, description="claim with the types of events that a token allows by itself"
    )
    events: dict[EventName, list[Role]] = Field(
        default={}, description="roles that may send an event, by its type; `*` is everybody"
    )

    @field_validator("events")
    @classmethod
    def _leaves_what_connections_need(cls, events: dict[str, list[str]]) -> dict[str, list[str]]:
        if not events.keys().isdisjoint({"auth", "ping"}):
            raise ValueError("auth and ping are for everybody: a connection needs them to stay")
        return events


class SecurityConfig(Section):
    """Everything that decides who may do what."""

    authentication: AuthenticationConfig = AuthenticationConfig()
    authorization: AuthorizationConfig = AuthorizationConfig()
    cors: CorsConfig = CorsConfig()
    rate_limiting: RateLimitingConfig = RateLimitingConfig()
    ssl: SslConfig = SslConfig()
    addresses: AddressesConfig = AddressesConfig()


class LoggingConfig(Section):
    """What an operator sees."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="lowest level logged"
    )
    format: Literal["text", "json"] = Field(
        default="text", description="`text` for people, `json` for machines: one object a line"
    )
    log_connections: bool = Field(default=True, description="one line as a connection opens and one as it closes")
    log_agent_errors: bool = Field(
        default=False, description="the text of what an agent raised, which may hold secrets; places are always logged"
    )
    log_messages: bool = Field(
        default=False,
        description="one line a message with its beginning, where what looks like a secret is masked",
    )
    performance_metrics: bool = Field(
        default=True, description="durations and amounts on the lines of runs, and of connections that close"
    )

    @field_validator("level", mode="before")
    @classmethod
    def _in_capitals(cls, level: object) -> object:
        return level.upper() if isinstance(level, str) else level


class TracingConfig(Section):
    """Spans of OpenTelemetry (docs/tracing.md)."""

    enabled: bool = Field(
        default=False, description="a span for each connection and each run; needs the extra `otel`, and a provider"
    )


class MetricsConfig(Section):
    """What Prometheus reads at `/metrics`."""

    enabled: bool = Field(default=True, description="off: nothing is measured, and `/metrics` is 404")
    token: SecretStr | None = Field(
        default=None, description="what `Authorization: Bearer` has to say; not set: whoever reaches it reads it"
    )
    listen: ListenAddress | None = Field(
        default=None,
        description="an address of its own for `/metrics`, `/healthz` and `/readyz`, as in `server.listen`; "
        "then `/metrics` is 404 elsewhere",
    )
    scrapers: Count = Field(default=32, description="sockets at that address at once; more are dropped (H14)")
    timeout: Seconds = Field(default=5, description="seconds to collect them; then the answer is 503")
    lag_interval: Seconds = Field(default=1, description="seconds between two looks at how late the event loop is")

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, token: SecretStr | None) -> SecretStr | None:
        # What a header can hold (RFC 6750 section 2.1); another one could never be the right one.
        if token is not None and not _BEARER.match(token.get_secret_value()):
            raise ValueError("a token is letters, digits and -._~+/, such as: openssl rand -base64 48")
        return token

    @field_validator("listen")
    @classmethod
    def _not_the_clients(cls, address: str | None) -> str | None:
        if address == "systemd":
            raise ValueError(
                "what systemd passes is for clients; name another address, or one of its sockets by fd:number"
            )
        return address


class LimitsConfig(Section):
    """Bounds of every buffer and table (contract C7; defaults of GUARANTEES)."""

    head_size: Size = Field(default=16 * 1024, description="bytes of a request head (H1)")
    request_line: Size = Field(default=4 * 1024, description="bytes of a request line (H1)")
    headers: Count = Field(default=64, description="header lines of a request (H1)")
    head_timeout: Seconds = Field(default=5, description="seconds for the whole request head (H2)")
    max_message_size: int = Field(
        default=256 * 1024, ge=1024, le=MESSAGE_SIZE_TOP, description="bytes of one message (F3)"
    )
    max_fragments: Count = Field(default=128, description="frames of one message (F4)")
    message_timeout: Seconds = Field(default=30, description="seconds to finish a message that has begun (F4)")
    frames_per_second: Count = Field(default=200, description="frames a connection may send, sustained (F8)")
    frame_burst: Count = Field(default=400, description="frames a connection may send at once (F8)")
    frames_per_turn: Count = Field(
        default=64, description="frames of a connection handled before others get their turn (F8)"
    )
    handshake_read: Size = Field(default=4 * 1024, description="bytes read at once before the upgrade (H7)")
    read: Size = Field(default=16 * 1024, description="bytes read at once after the upgrade")
    inbox: Size = Field(default=64 * 1024, description="bytes of frames waiting for their turn; then reading pauses")
    out_high: Size = Field(
        default=256 * 1024, description="bytes waiting for a blocked peer; then its reading and agents pause (C1)"
    )
    out_top: Size = Field(default=1024 * 1024, description="bytes waiting for a blocked peer; then it is closed (C1)")
    write_timeout: Seconds = Field(default=10, description="seconds without progress of a blocked peer (C1)")
    close_timeout: Seconds = Field(default=5, description="seconds for the answer to our Close (F10)")
    linger: Seconds = Field(default=1, description="seconds to read and discard behind our half-close (F13)")
    discard: Size = Field(default=64 * 1024, description="bytes discarded behind a Close (F9)")
    connections_per_address: Count = Field(default=100, description="connections of one address, IPv6 by /64 (H14)")
    connections_per_minute: Rate | None = Field(
        default=None,
        description="connections that one address, IPv6 by /64, may open in every sliding window of 60 s; not set: no "
        "such limit (H14)",
    )
    handshakes: Count = Field(default=256, description="sockets not upgraded, beside `max_connections` (H14)")
    retry_after: Count = Field(default=5, description="seconds told to a client that met a full server")
    bad_messages_per_minute: Count = Field(
        default=10, description="unreadable messages before the connection is closed (M1)"
    )
    refusal_interval: Seconds = Field(default=10, description="seconds between log lines on one refused address (H3)")
    refusal_addresses: Count = Field(default=10_000, description="addresses remembered for that; more are not logged")
    blocks: Count = Field(
        default=10_000, description="users blocked at once, and as many networks; the operator is refused more (A5)"
    )
    revocations: Count = Field(
        default=100_000,
        description="tokens revoked at once, and as many users, while they could be good; the operator is refused "
        "more (A5)",
    )
    json_depth: Count = Field(default=32, description="nesting of an event (M4)")
    verified_tokens: Count = Field(default=10_000, description="tokens whose verification is remembered (A6)")
    failed_tokens_per_minute: int = Field(
        default=600, ge=1, le=100_000, description="tokens of one address that may fail, IPv6 by /64 (A8)"
    )
    key_set_size: Size = Field(default=64 * 1024, description="bytes of a key set, or of `public_key_file`")
    keys: Annotated[int, Field(ge=1, le=1000)] = Field(default=32, description="keys in use of one set, the first ones")


class BudgetConfig(Section):
    """How much agents may answer one user in one day, which begins at midnight UTC."""

    unit: Literal["characters", "tokens"] = Field(
        default="characters",
        description="`characters` of answers, or `tokens` in and out, which the agent has to report",
    )
    per_day: Annotated[int, Field(ge=1, le=1_000_000_000_000)] | None = Field(
        default=None, description="units for one user; not set: no such limit"
    )
    reserve: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=1000,
        description="units taken for a message until it is known what its answer has used; they stay taken where the "
        "agent reports no tokens",
    )
    max_users: Count = Field(default=100_000, description="users remembered for the day; the rest share one budget")

    @model_validator(mode="after")
    def _covers_an_answer(self) -> BudgetConfig:
        if self.per_day is not None and self.per_day < self.reserve:
            raise ValueError("per_day: below `reserve`, which is taken for each message: nobody could ask anything")
        return self


class AgentConfig(Section):
    """How long and how much an agent may answer."""

    timeout: Seconds = Field(default=60, description="seconds an agent may be silent (G1)")
    max_duration: Seconds = Field(default=600, description="seconds a run may take (G3)")
    max_response_size: Size = Field(
        default=8 * 1024 * 1024, description="bytes of one answer, before JSON escapes it (G3)"
    )
    roll_up: float = Field(default=0.04, ge=0, le=10, description="seconds within which streamed pieces are joined")
    chunk_size: Count = Field(default=16 * 1024, description="characters sent without waiting for `roll_up`")
    cancel_grace: Seconds = Field(default=5, description="seconds a cancelled agent has to stop (G5)")
    max_runs: Count = Field(default=1000, description="messages accepted and not yet answered, on the node (G7)")
    runs_per_user: Count | None = Field(
        default=None,
        description="the same of one user; without authentication, of one address; not set: no such limit (G7)",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(default=32, description="threads for agents that block (G6)")
    budget: BudgetConfig = BudgetConfig()


class SessionsConfig(Section):
    """How much of a conversation is held, and how long."""

    ttl: Seconds = Field(default=3600, description="seconds a session is kept when nobody is attached")
    per_user: Count = Field(default=16, description="sessions of one user (S4)")
    max_sessions: Count = Field(default=10_000, description="sessions on the node (S4)")
    queue: Annotated[int, Field(ge=0, le=1000)] = Field(default=4, description="messages waiting behind a run (G7)")
    max_events: Count = Field(default=1000, description="events held of one session (S1)")
    max_bytes: Size = Field(default=1024 * 1024, description="bytes of events held of one session (S1)")
    user_bytes: Size = Field(default=16 * 1024 * 1024, description="bytes of events held of one user (S4)")
    node_bytes: Size = Field(default=256 * 1024 * 1024, description="bytes of events held on the node (S4)")
    known_ids: Count = Field(default=1024, description="message ids remembered in one session (M5)")
    exclusive: bool = Field(
        default=False,
        description="one connection reads a session at a time: a newer one takes it over, the other is closed (4409)",
    )
    double_text: DoubleText = Field(
        default="enqueue",
        description="what a message does while the agent works on another of its session: `enqueue` waits, `reject` is "
        "refused with BUSY, `interrupt` ends the others with what they have, `concurrent` runs beside them",
    )


class StoreConfig(Section):
    """Where sessions are kept beyond the life of the process."""

    kind: Literal["memory", "sqlite"] = Field(
        default="memory", description="`memory` ends with the process, `sqlite` is kept in a file"
    )
    path: str | None = Field(default=None, min_length=1, description="file of the `sqlite` store, for one process")
    synchronous: Literal["full", "normal"] = Field(
        default="full", description="`full` survives loss of power (D3), `normal` only the end of the process"
    )
    retention_days: Count = Field(default=30, description="days a session is kept behind its last event")
    on_restart: Literal["fail", "rerun"] = Field(
        default="fail",
        description="what becomes of answers that a restart cut: `fail` ends them with an error, `rerun` asks again",
    )
    retry: Seconds = Field(default=1, description="seconds until what could not be saved is tried again (D4)")
    max_unsaved: Size = Field(
        default=16 * 1024 * 1024, description="bytes waiting to be saved; then messages are refused (D4)"
    )

    @model_validator(mode="after")
    def _has_a_file(self) -> StoreConfig:
        if self.kind == "sqlite" and self.path is None:
            raise ValueError('path: the sqlite store needs a file, such as path: "qaws.db"')
        return self


class DrainConfig(Section):
    """How a node stops."""

    timeout: Seconds = Field(default=30, description="seconds runs have to finish (D1)")
    reconnect_after: float = Field(default=1, ge=0, le=3600, description="seconds after which clients should come back")
    interval: Seconds = Field(
        default=0.1, description="seconds between two rounds of closes, so that they are spread out"
    )
    closes: Count = Field(default=100, description="connections closed in one round")


class WebSocketConfig(Section):
    """The `websocket:` section (PROTOCOL, "Configuration")."""

    enabled: bool = Field(default=True, description="off: `qaws serve` refuses to start")
    server: ServerConfig = ServerConfig()
    security: SecurityConfig = SecurityConfig()
    logging: LoggingConfig = LoggingConfig()
    tracing: TracingConfig = TracingConfig()
    metrics: MetricsConfig = MetricsConfig()
    limits: LimitsConfig = LimitsConfig()
    agent: AgentConfig = AgentConfig()
    sessions: SessionsConfig = SessionsConfig()
    store: StoreConfig = StoreConfig()
    drain: DrainConfig = DrainConfig()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than `localhost` may stand for anything."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
