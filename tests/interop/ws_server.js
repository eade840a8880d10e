// The server of npm's `ws`, which does what the path asks for: see servers.py. The first line of its standard output is its port,
// each further one the [code, reason] with which a connection ended. It ends when its standard input does.
"use strict";

const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  maxPayload: 64 << 20,
  perMessageDeflate: { threshold: 0 }, // of any size, as the others do
  handleProtocols: (offered) => (offered.has("chat.v2") ? "chat.v2" : false),
});

function fields(request) {
  const pairs = [];
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    pairs.push([request.rawHeaders[i].toLowerCase(), request.rawHeaders[i + 1]]);
  }
  return pairs;
}

server.on("listening", () => console.log(server.address().port));

server.on("connection", (socket, request) => {
  const [kind, ...words] = request.url.split("?")[0].split("/").slice(1);
  socket.on("error", () => {}); // `close` follows
  socket.on("close", (code, reason) => console.log(JSON.stringify([code, String(reason)])));
  socket.on("pong", () => socket.send("pong"));
  socket.on("message", (data, isBinary) => {
    if (kind === "close") socket.close(Number(words[0]), words[1]);
    else if (kind === "ping") socket.ping("are you there?");
    else if (kind === "request") socket.send(JSON.stringify({ target: request.url, fields: fields(request) }));
    else socket.send(data, { binary: isBinary });
  });
});

process.stdin.on("end", () => process.exit(0)).resume();
