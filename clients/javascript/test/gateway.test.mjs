// The client against a real gateway: tests/protocol/test_javascript.py starts it.
// SPDX-License-Identifier: Apache-2.0

import { chmod, readFile, stat } from "node:fs/promises";
import { after, before, test } from "node:test";

import { connect } from "../headgate.mjs";
import { CASES, check, failure } from "./live.mjs";

const { GATEWAY_URL, GATEWAY_PID, GATEWAY_PASSWORD, GATEWAY_TOKEN, HEADGATE_HOME } = process.env;
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

const mistake = (promise) => promise.then(() => undefined, (error) => error);

const WAYS = {
  "a password": { user: "ada", password: GATEWAY_PASSWORD },
  "a password that is asked for": { user: "ada", password: async () => GATEWAY_PASSWORD },
  "a token": { token: GATEWAY_TOKEN },
};

for (const [name, way] of Object.entries(WAYS)) {
  test(`${name} logs in, and its ticket the next time`, async () => {
    const first = await connect(GATEWAY_URL, way);
    check(first.user === "ada", first.user);
    check((await first.request("ACME", "echo", { a: 1 })).a === 1);
    await first.close();
    check(first.ticket.isGood && !JSON.stringify(first.ticket).includes("key"), first.ticket);
    const second = await connect(GATEWAY_URL, { ticket: first.ticket });
    check(second.user === "ada" && second.session !== first.session, second.user);
    check(second.ticket !== first.ticket, "a new ticket");
    await second.close();
  });
}

test("what is wrong is denied, with the same words", async () => {
  const errors = [
    await failure(connect(GATEWAY_URL, { user: "ada", password: "wrong password" })),
    await failure(connect(GATEWAY_URL, { user: "nobody", password: "wrong password" })),
  ];
  for (const error of errors) check(error.code === "denied" && error.message === errors[0].message, error);
  check((await failure(connect(GATEWAY_URL, { token: "hg_wrong" }))).code === "denied");
  check((await failure(connect(GATEWAY_URL, { anonymous: true }))).code === "denied");
  check((await failure(connect(GATEWAY_URL, { user: "ada", password: "x", localToken: "ab".repeat(32) }))).code === "denied");
});

test("there is one way to log in", async () => {
  for (const options of [{ user: "ada" }, { password: "x" }, { token: "x", anonymous: true }, { ticket: "x" }, { token: "" }, { token: 7 }]) {
    check((await mistake(connect(GATEWAY_URL, options))) instanceof TypeError, options);
  }
});

test("no secret goes to another machine in clear, or to a port where no gateway of this user was", async () => {
  const way = WAYS["a password"];
  check((await mistake(connect("ws://192.0.2.1:8188", way))) instanceof TypeError);
  process.env.HEADGATE_HOME = `${HEADGATE_HOME}/elsewhere`;
  try {
    const error = await failure(connect(GATEWAY_URL, way));
    check(error.code === "unreachable" && error.message.includes("wss://") && !error.message.includes(GATEWAY_PASSWORD), error);
  } finally {
    process.env.HEADGATE_HOME = HEADGATE_HOME;
  }
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
