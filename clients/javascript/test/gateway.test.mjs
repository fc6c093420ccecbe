// The client against a real gateway: tests/protocol/test_javascript.py starts it.
// SPDX-License-Identifier: Apache-2.0

import { chmod, readFile, stat } from "node:fs/promises";
import { after, before, test } from "node:test";

import { connect } from "../headgate.mjs";
import { CASES, check, failure } from "./live.mjs";

const { GATEWAY_URL, GATEWAY_PID, HEADGATE_HOME } = process.env;
const port = new URL(GATEWAY_URL).port;
let client;

before(async () => (client = await connect(GATEWAY_URL)));
after(() => client.close());

for (const [name, run] of CASES) test(name, () => run(client));

test("localhost is 127.0.0.1", async () => {
  const other = await connect(`ws://localhost:${port}/`);
  check((await other.request("ACME", "echo", { a: 1 })).a === 1);
  check((await other.close("done")) === "done");
  check((await failure(other.request("ACME", "echo"))).code === "unreachable");
});

test("a wrong local token gets nobody in, and no proof is sent", async () => {
  const error = await failure(connect(GATEWAY_URL, { localToken: "ab".repeat(32) }));
  check(error.code === "denied" && error.started === false, error);
});

test("where nobody listens, nothing is reached", async () => {
  const error = await failure(connect("ws://127.0.0.1:1", { localToken: "ab".repeat(32) }));
  check(error.code === "unreachable", error);
  check((await failure(connect("ws://127.0.0.1:1"))).code === "unreachable");
});

test("a token that others can read is refused", async () => {
  const file = await readFile(`${HEADGATE_HOME}/ports/${port}`, "utf8");
  const { mode } = await stat(file);
  await chmod(file, 0o644);
  try {
    check((await failure(connect(GATEWAY_URL))).code === "denied");
  } finally {
    await chmod(file, mode);
  }
});

test("a gateway that dies ends the open requests with connection_lost", async () => {
  const other = await connect(GATEWAY_URL);
  let kill;
  const begun = new Promise((resolve) => (kill = resolve));
  const running = failure(other.request("ACME", "patient", {}, { onProgress: kill }));
  await begun;
  process.kill(Number(GATEWAY_PID), "SIGKILL");
  const sent = failure(other.request("ACME", "echo"));
  check((await running).code === "connection_lost" && (await running).started === true, await running);
  check((await sent).code === "connection_lost" && (await sent).started !== true, await sent);
  await other.closed;
});
