// Clients of npm's `ws` that send as fast as they can, all at once, and tell what they read before the end.
//   {"url", "clients", "size", "protocols"}: client N is user N (`%USER%` in url and protocols) at 198.51.100.N
// Prints a list of {"texts", "code", "reason", "protocol", "error"}.
"use strict";

const WebSocket = require("ws");

const { url, clients, size, protocols } = JSON.parse(process.argv[2]);

function named(text, number) {
  return text.replace("%USER%", `user-${number}`);
}

function flood(number) {
  return new Promise((resolve) => {
    const told = { texts: [], code: null, reason: null, protocol: null, error: null };
    const offered = protocols.map((protocol) => named(protocol, number));
    const socket = new WebSocket(named(url, number), offered, {
      headers: { "X-Forwarded-For": `198.51.100.${number}` },
      perMessageDeflate: false,
    });
    const message = "x".repeat(size);
    function send() {
      for (let i = 0; i < 20 && socket.readyState === WebSocket.OPEN; i++) socket.send(message);
      if (socket.readyState === WebSocket.OPEN) setImmediate(send);
    }
    socket.on("open", () => {
      told.protocol = socket.protocol;
      send();
    });
    socket.on("message", (data) => told.texts.push(String(data)));
    socket.on("error", (error) => (told.error = error.message));
    socket.on("close", (code, reason) => resolve({ ...told, code, reason: String(reason) }));
  });
}

Promise.all(Array.from({ length: clients }, (_, number) => flood(number + 1))).then((all) => console.log(JSON.stringify(all)));
