// Signs of life, on a clock that the test moves.
// SPDX-License-Identifier: Apache-2.0

import { test } from "node:test";

import { decodeBatch, encodeBatch, encodeFrame } from "../frames.mjs";
import { Client } from "../headgate.mjs";
import { check } from "./live.mjs";

const welcome = { session: "", gateway: "hub", user: "", in_flight: 4096, unsent: 2 ** 26, max_message: 2 ** 23 };

/** A client whose clock and timer are the test's. */
function clocked(t) {
  let time = 0;
  let look;
  t.mock.method(performance, "now", () => time);
  t.mock.method(globalThis, "setInterval", (run) => (look = run));
  t.mock.method(globalThis, "clearInterval", () => {});
  const socket = { bufferedAmount: 0, sent: [], send: (bytes) => socket.sent.push(bytes.slice()), close: (code) => (socket.code = code) };
  const client = new Client(socket, welcome, []);
  const pass = async (ms, step = 500) => {
    for (const end = time + ms; time < end; ) {
      time += step;
      look();
      await Promise.resolve();
    }
  };
  const receive = (name, values) => socket.onmessage({ data: encodeBatch(time, [encodeFrame(name, values)]).buffer });
  const pings = () => socket.sent.flatMap((bytes) => decodeBatch(bytes).frames).filter(({ frame }) => frame === "Ping").length;
  return { client, socket, pass, receive, pings };
}

test("after 2 s of silence it asks once, and an answer is enough", async (t) => {
  const { socket, pass, receive, pings } = clocked(t);
  await pass(1500);
  check(pings() === 0, pings());
  await pass(2500);
  check(pings() === 1, pings());
  receive("Pong", { sent: 2000 });
  await pass(2500);
  check(pings() === 2 && socket.code === undefined, socket.code);
});

test("after 6 s of silence the gateway is dead", async (t) => {
  const { client, socket, pass } = clocked(t);
  await pass(5500);
  check(socket.code === undefined, socket.code);
  await pass(500);
  check(socket.code === 1000, socket.code);
  check((await client.closed).includes("no sign of life"));
});

test("a client that slept asks again before it takes the gateway for dead", async (t) => {
  const { socket, pass, receive, pings } = clocked(t);
  await pass(2000);
  await pass(60_000, 60_000);
  check(socket.code === undefined, socket.code);
  receive("Pong", { sent: 2000 });
  await pass(1500);
  check(socket.code === undefined && pings() === 1, socket.code);
});
