// Clients of Socket.IO's own library, as it has them by default: they open by polling, talk, and go over to a WebSocket meanwhile.
// Each tells its room something, and hears what the room was told. Prints, for each, its transports, echoes and what it heard.
"use strict";

const { io } = require("socket.io-client");

const { url, clients, rooms, options } = JSON.parse(process.argv[2]);

function live(number) {
  return new Promise((resolve, reject) => {
    const name = `client-${number}`;
    const room = `room-${number % rooms}`;
    const found = { name, room, transports: [], echoes: [], heard: [], reason: null };
    const socket = io(url, { ...options, query: { room, name, token: name }, forceNew: true, reconnection: false });
    const engine = socket.io.engine;
    engine.once("open", () => found.transports.push(engine.transport.name));
    socket.on("connect_error", reject);
    socket.on("disconnect", (reason) => { found.reason = reason; });
    socket.on("told", (told) => {
      found.heard.push(told);
      if (found.heard.length === clients / rooms) setImmediate(() => { socket.disconnect(); resolve(found); });
    });
    socket.on("connect", async () => {
      const echo = (payload) => socket.timeout(10000).emitWithAck("echo", payload);
      try {
        found.echoes.push(await echo(`before ${name}`));
        if (engine.transport.name === "polling" && options.upgrade !== false) await new Promise((upgraded) => engine.once("upgrade", upgraded));
        found.transports.push(engine.transport.name);
        found.echoes.push(await echo(`after ${name}`));
        found.echoes.push((await echo(Buffer.from([0, 255, number & 255]))).toString("hex"));
        arrived();
        await everybody;
        socket.emit("tell", `hello from ${name}`);
      } catch (error) {
        reject(error);
      }
    });
  });
}

let missing = clients;
let open;
const everybody = new Promise((resolve) => { open = resolve; });
const arrived = () => { if (--missing === 0) open(); };

Promise.all(Array.from({ length: clients }, (_, number) => live(number))).then(
  (all) => process.stdout.write(JSON.stringify(all), () => process.exit(0)),
  (error) => { process.stderr.write(`${error.stack}\n`); process.exit(1); },
);
