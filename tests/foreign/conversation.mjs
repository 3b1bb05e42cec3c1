// One conversation with a gateway through Node's `ws`: node conversation.mjs URL message|header|subprotocol TOKEN CONTENT
// Prints every event as one line of JSON, and last the close code and what was agreed.
import { createRequire } from "node:module";

const [url, way, token, content] = process.argv.slice(2);
const WebSocket = createRequire(process.env.WS_FROM)("ws");
const options = way === "header" ? { headers: { Authorization: `Bearer ${token}` } } : {};
const protocols = way === "subprotocol" ? ["qaws.v1", `qaws.bearer.${token}`] : ["qaws.v1"];
const socket = new WebSocket(url, protocols, options);

socket.on("message", (data) => {
  const event = JSON.parse(data.toString());
  console.log(JSON.stringify(event));
  if (event.event_name === "auth_required") socket.send(JSON.stringify({ type: "auth", token }));
  if (event.event_name === "connection_established")
    socket.send(JSON.stringify({ type: "chat_message", content, id: "m1", stream: true }));
  if (event.type === "agent_response") socket.close(1000);
});
socket.on("close", (code) => {
  const compressed = socket.extensions === "permessage-deflate";
  console.log(JSON.stringify({ closed: code, protocol: socket.protocol, compressed }));
});
socket.on("error", (error) => { console.error(error.message); process.exit(1); });
