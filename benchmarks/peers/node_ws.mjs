// The same work on Node's `ws`: jose verifies the JWT, ajv validates a discriminated schema, each user has a sliding
// window of messages, an async agent answers. Told what to do by the first line of its input, ends with it.
import { once } from "node:events";
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { createInterface } from "node:readline";

const packages = createRequire(process.env.QAWS_NODE_FROM);
const Ajv = packages("ajv");
const { jwtVerify } = packages("jose");
const { WebSocketServer } = packages("ws");

const MINUTE = 60_000;
const BACKLOG = 4096;
const PIECES = Array.from({ length: 64 }, (_, number) => `piece ${String(number).padStart(2, "0")}, `);

const lines = createInterface({ input: process.stdin });
const { terms } = JSON.parse((await once(lines, "line"))[0]);
lines.on("close", () => process.exit(0));
const secret = new TextEncoder().encode(terms.secret);

// ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const text = (maxLength, minLength = 1) => ({ type: "string", minLength, maxLength });
const event = (type, required, properties) => ({
  type: "object",
  required: ["type", ...required],
  additionalProperties: false,
  properties: { type: { const: type }, ...properties },
});
const valid = new Ajv({ discriminator: true, allowUnionTypes: true }).compile({
  type: "object",
  discriminator: { propertyName: "type" },
  required: ["type"],
  oneOf: [
    event("auth", ["token"], { token: text(8192) }),
    event("chat_message", ["content"], {
      content: text(10_000),
      id: text(64),
      session_id: text(128),
      user_id: text(128),
      stream: { type: "boolean" },
      metadata: {
        type: "object",
        maxProperties: 32,
        additionalProperties: { type: ["string", "number", "boolean"] },
      },
    }),
    event("cancel", [], { run_id: { type: "string" }, correlation_id: { type: "string" } }),
    event("resume", ["session_id", "epoch", "seq"], {
      session_id: text(128),
      epoch: text(128, 0),
      seq: { type: "integer", minimum: 0 },
    }),
    event("ping", [], { id: text(64, 0) }),
  ],
});

const refusal = (error_code, error_message, correlation_id) => ({
  type: "error",
  error_code,
  error_message,
  correlation_id,
});

const token = () => randomBytes(16).toString("hex");

// ── the agent ───────────────────────────────────────────────────────────────────────────────────────────────────────

const agent = async (message) => `You said: ${message}`;

async function* streamingAgent() {
  yield* PIECES;
}

// ── the server's side ───────────────────────────────────────────────────────────────────────────────────────────────

class Window {
  times = [];
  first = 0;

  admit(now) {
    while (this.first < this.times.length && this.times[this.first] <= now - MINUTE) this.first += 1;
    if (this.first > 1024 && this.first * 2 > this.times.length) {
      this.times = this.times.slice(this.first);
      this.first = 0;
    }
    if (this.times.length - this.first >= terms.requests_per_minute) return false;
    this.times.push(now);
    return true;
  }
}

const windows = new Map();
const sessions = new Map();
const entry = (map, key, make) => map.get(key) ?? map.set(key, make()).get(key);

class Conversation {
  constructor(socket, claims) {
    this.socket = socket;
    this.userId = claims.sub;
    this.window = entry(windows, this.userId, () => new Window());
    this.sessionId = token();
    this.session = { seq: 0, members: new Set() };
    this.working = Promise.resolve();
    socket.on("message", (data) => {
      this.working = this.working.then(() => this.take(data));
    });
    socket.on("close", () => this.session.members.delete(socket));
    this.send({
      type: "system_event",
      event_name: "connection_established",
      data: {
        user_id: this.userId, session_id: this.sessionId, epoch: token(), seq: 0, protocol: "qaws.v1",
        heartbeat_interval: 20, max_message_size: 1024 * 1024,
        token_expires_in: Math.floor(claims.exp - Date.now() / 1000),
      },
    });
  }

  send(told) {
    this.socket.send(JSON.stringify(told));
  }

  tell(told) {
    const { members } = this.session;
    if (members.size === 0) return this.send(told);
    const data = Buffer.from(JSON.stringify(told));
    for (const member of members) member.send(data, { binary: false });
  }

  async take(data) {
    let told;
    try {
      told = JSON.parse(data);
    } catch {
      told = null;
    }
    if (!valid(told)) return this.send(refusal("INVALID_EVENT", "Invalid event"));
    if (told.type === "resume") return this.resume(told);
    if (told.type !== "chat_message") return this.send(refusal("INVALID_EVENT", "Only chat messages are measured"));
    if (told.user_id !== undefined && told.user_id !== this.userId)
      return this.send(refusal("FORBIDDEN", "user_id is not the user of the token", told.id));
    const started = performance.now();
    if (!this.window.admit(started)) return this.send(refusal("RATE_LIMIT", "Rate limit exceeded", told.id));
    if (told.session_id !== undefined && told.session_id !== this.sessionId) this.join(told.session_id);
    const run_id = token();
    const content = terms.scene === "stream" ? await this.stream(told, run_id) : await agent(told.content);
    this.session.seq += 1;
    this.tell({
      type: "agent_response", content, session_id: this.sessionId, user_id: this.userId,
      processing_time: Math.round(1000 * (performance.now() - started)) / 1e6,
      reasoning_steps: [], tools_used: [], status: "completed", run_id, correlation_id: told.id, seq: this.session.seq,
    });
  }

  async stream(told, run_id) {
    let content = "";
    for await (const piece of streamingAgent(told.content)) {
      this.session.seq += 1;
      this.send({
        type: "agent_chunk", content: piece, offset: content.length, session_id: this.sessionId,
        seq: this.session.seq, run_id, correlation_id: told.id,
      });
      content += piece;
    }
    return content;
  }

  resume({ session_id }) {
    this.join(session_id);
    this.send({ type: "system_event", event_name: "session_resumed", data: { recovered: true }, session_id });
  }

  join(sessionId) {
    this.sessionId = sessionId;
    this.session = entry(sessions, `${this.userId}\0${sessionId}`, () => ({ seq: 0, members: new Set() }));
    this.session.members.add(this.socket);
  }
}

// ── listening ───────────────────────────────────────────────────────────────────────────────────────────────────────

const http = createServer();
const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false });
http.on("upgrade", async (request, socket, head) => {
  try {
    const bearer = (request.headers.authorization ?? "").replace(/^Bearer /, "");
    const { payload } = await jwtVerify(bearer, secret, {
      algorithms: ["HS256"],
      issuer: terms.issuer,
      audience: terms.audience,
      requiredClaims: ["sub", "exp", "iat"],
    });
    sockets.handleUpgrade(request, socket, head, (client) => new Conversation(client, payload));
  } catch {
    socket.end("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
  }
});
http.listen({ host: "127.0.0.1", port: 0, backlog: BACKLOG }, () => {
  console.log(JSON.stringify({ port: http.address().port }));
});
