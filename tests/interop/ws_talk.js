// A client of npm's `ws` that sends messages, the last one after a pause that begins when the others have
// been judged (a ping behind them was answered), and closes when the last one came back.
//   {"url", "messages", "pause" (ms), "deflate"}; `deflate`: whether, or options of it
// Prints {"texts", "extensions", "code", "error"}; `extensions` is the header of the 101.
"use strict";

const WebSocket = require("ws");

const { url, messages, pause, deflate } = JSON.parse(process.argv[2]);
const last = messages.pop();
const told = { texts: [], extensions: null, code: null, error: null };
const socket = new WebSocket(url, { perMessageDeflate: deflate && { threshold: 0, ...deflate } });

socket.on("upgrade", (response) => (told.extensions = response.headers["sec-websocket-extensions"] || null));
socket.on("open", () => {
  for (const message of messages) socket.send(message);
  if (pause) socket.ping();
  else socket.send(last);
});
socket.once("pong", () => setTimeout(() => socket.send(last), pause));
socket.on("message", (data) => {
  told.texts.push(String(data));
  if (String(data) === last) socket.close(1000);
});
socket.on("error", (error) => (told.error = error.message));
socket.on("close", (code) => console.log(JSON.stringify({ ...told, code })));
