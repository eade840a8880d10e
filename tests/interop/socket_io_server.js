// Socket.IO's own server. It prints its port, and then a line for each client that has gone over to a WebSocket. It ends with its input.
"use strict";

const http = require("node:http");
const { Server } = require("socket.io");

const server = http.createServer((request, response) => response.end("plain\n"));
const io = new Server(server);

io.on("connection", (socket) => {
  const { room, name } = socket.handshake.query;
  socket.join(room);
  socket.conn.on("upgrade", (transport) => process.stdout.write(`${name} ${transport.name}\n`));
  socket.on("echo", (payload, answer) => answer(payload));
  socket.on("tell", (text) => io.to(room).emit("told", { room, name, text }));
});

server.listen(0, "127.0.0.1", () => process.stdout.write(`${server.address().port}\n`));
process.stdin.on("end", () => process.exit(0)).resume();
