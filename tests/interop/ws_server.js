// The server of npm's `ws`: echoes; does what the path asks for; ends when its standard input does.
//   /close/4321/why     closes with that code and reason at the first message
//   /closed             tells on its standard output's second line and on with which code each client closed
"use strict";

const { WebSocketServer } = require("ws");

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  maxPayload: 64 << 20,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => (offered.has("chat.v2") ? "chat.v2" : false),
});

server.on("listening", () => console.log(server.address().port));

server.on("connection", (socket, request) => {
  const path = new URL(request.url, "http://host").pathname.split("/").slice(1);
  socket.on("error", () => {}); // `close` follows
  socket.on("message", (data, isBinary) => {
    if (path[0] === "close") socket.close(Number(path[1]), path[2]);
    else if (path[0] === "request") {
      socket.send(JSON.stringify({ target: request.url, headers: request.headers }));
    } else socket.send(data, { binary: isBinary });
  });
  socket.on("close", (code, reason) => console.log(JSON.stringify({ code, reason: String(reason) })));
});

process.stdin.on("end", () => process.exit(0)).resume();
