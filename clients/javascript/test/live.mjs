// What the client does with a real gateway, in Node and in browsers; tests/protocol/conftest.py has the handlers.
// SPDX-License-Identifier: Apache-2.0

import { Dataset, Float, FrozenSet, HeadgateError, Tuple, Typed } from "../headgate.mjs";

/**
 * The cases: names, and functions of a connected client that throw if something is wrong.
 *
 * @type {[string, (client: import("../headgate.mjs").Client) => Promise<void>][]}
 */
export const CASES = [
  ["the session has an id, a gateway and a user", async (client) => {
    check(/^[0-9a-f]{20}$/.test(client.session), client.session);
    check(client.gateway === "hub" && client.user, client.gateway);
  }],
  ["a request has its result", async (client) => {
    check((await client.request("ACME", "echo", { number: 55 })).number === 55);
  }],
  ["values of every type come back", everyType],
  ["an error of the handler arrives with its type and text", async (client) => {
    const error = await failure(client.request("ACME", "bad"));
    check(error.code === "handler_error" && error.started === true, error);
    check(error.details.type === "ValueError" && error.details.message === "the valve is stuck", error.details);
    check(error.details.traceback.includes("bad.py"), error.details);
  }],
  ["what does not exist is refused before anything began", async (client) => {
    const [project, handler] = [failure(client.request("NOPE", "echo")), failure(client.request("ACME", "nope"))];
    check((await project).code === "project_not_found" && (await project).started === false, await project);
    check((await handler).code === "handler_not_found" && (await handler).started === false, await handler);
  }],
  ["what cannot be sent is refused with its place", async (client) => {
    const error = await failure(client.request("ACME", "echo", { a: [1, () => {}] }));
    check(error.code === "payload" && error.details.place === "payload['a'][1]", error.details);
  }],
  ["progress arrives in its order, before the result", async (client) => {
    const values = [];
    const result = await client.request("ACME", "steps", { count: 3 }, { onProgress: (value) => values.push(value) });
    check(result === "done" && values.at(-1) === 2, values);
    check(values.every((value, index) => index === 0 || value > values[index - 1]), values);
  }],
  ["aborting cancels, and the fate tells when the handler has stopped", async (client) => {
    const abort = new AbortController();
    const request = client.request("ACME", "patient", {}, { signal: abort.signal, onProgress: () => abort.abort("enough") });
    const error = await failure(request);
    check(error.code === "cancelled" && error.started === true && error.cause === "enough", error);
    check((await error.fate) === "stopped", await error.fate);
  }],
  ["what is cancelled in the turn that made it was never sent", async (client) => {
    const abort = new AbortController();
    const request = client.request("ACME", "echo", {}, { signal: abort.signal });
    abort.abort();
    const error = await failure(request);
    check(error.started === false && (await error.fate) === "not started", error);
  }],
  ["a timeout says that the handler began, and its fate", async (client) => {
    const error = await failure(client.request("ACME", "patient", {}, { timeout: 0.15 }));
    check(error.code === "timeout" && error.started === true, error);
    check((await error.fate) === "stopped", await error.fate);
  }],
  ["a full queue is overloaded, and nothing began", async (client) => {
    const abort = new AbortController();
    const begun = new Promise((resolve) => {
      client.request("ACME", "single", {}, { signal: abort.signal, onProgress: resolve }).catch(() => {});
    });
    await begun;
    const queued = failure(client.request("ACME", "single", {}, { signal: abort.signal }));
    const error = await failure(client.request("ACME", "single"));
    check(error.code === "overloaded" && error.started === false, error);
    abort.abort();
    check((await queued).started !== true, await queued);
  }],
  ["a message is delivered to the gateway's handlers", async (client) => {
    const [line] = await client.message("ACME", "echo", { number: 55 });
    check(line.endsWith("handler=echo,sendStatus=SENT"), line);
  }],
  ["the gateway's own handlers answer", async (client) => {
    const handlers = await client.request("@gateway", "handlers");
    check(handlers.some(({ project, handler }) => project === "ACME" && handler === "echo"), handlers);
  }],
  ["a thousand requests at once", async (client) => {
    const results = await Promise.all(Array.from({ length: 1000 }, (_, i) => client.request("ACME", "echo", { i })));
    check(results.every(({ i }, index) => i === index));
  }],
  ["more requests than the credit are refused at once", async (client) => {
    const requests = Array.from({ length: 4097 }, (_, i) => client.request("ACME", "echo", { i }).catch((error) => error));
    const last = await requests.at(-1);
    check(last instanceof HeadgateError && last.code === "overloaded" && last.started === false, last);
    check((await Promise.all(requests)).filter((result) => result instanceof Error).length === 1);
  }],
  ["a large payload goes there and back while small ones go on", largePayload],
];

async function everyType(client) {
  const sent = {
    nil: null, yes: true, small: -7, large: 2n ** 63n, huge: -(10n ** 40n), half: 0.5, text: "äß€𝄞\ud800",
    bytes: Uint8Array.of(0, 255), list: [1, [2]], tuple: Tuple.of(1, "a"), set: new Set([1]), frozen: new FrozenSet(["x"]),
    map: new Map([[1, "one"], [Tuple.of(1, 2), "pair"]]), moment: new Typed("datetime", "2024-10-27T12:30:00+01:00[Europe/Berlin]"),
    day: new Typed("date", "2024-10-27"), span: new Typed("timedelta", "-1"), price: new Typed("decimal", "1.50"),
    table: new Dataset(["x"], ["int"], [[1], [null]]), numbers: Float64Array.of(1.5, -2),
    id: new Typed("uuid", "00112233-4455-6677-8899-aabbccddeeff"), __proto__: null, ["__proto__"]: 1,
  };
  const types = await client.request("ACME", "types", { ...sent, whole: new Float(1), now: new Date() });
  const names = "NoneType bool int int int float str bytes list tuple set frozenset dict datetime date timedelta Decimal Dataset ndarray UUID int float datetime";
  check(types.join(" ") === names, types);
  const back = await client.request("ACME", "echo", sent);
  check(back.large === sent.large && back.huge === sent.huge && back.text === sent.text && back.bytes[1] === 255, back);
  check(back.tuple instanceof Tuple && back.set.has(1) && back.frozen instanceof FrozenSet && back.map.get(1) === "one", back);
  check(back.table.rows[0][0] === 1 && back.table.rows[1][0] === null && back.numbers.numbers[1] === -2, back);
  for (const key of ["moment", "day", "span", "price", "id"]) check(`${back[key]}` === `${sent[key]}`, back[key]);
}

async function largePayload(client) {
  const bytes = new Uint8Array(20 * 2 ** 20);
  for (let i = 0; i < bytes.length; i += 4096) bytes[i] = i >> 12;
  let over = false;
  const large = client.request("ACME", "echo", { bytes }).finally(() => (over = true));
  let small = 0;
  while (!over) {
    check((await client.request("ACME", "echo", { small })).small === small++);
  }
  const back = (await large).bytes;
  check(back.length === bytes.length && back.every((byte, i) => byte === bytes[i]), back.length);
  check(small > 1, `${small} small requests`);
}

/** What a request failed with. */
export async function failure(request) {
  const result = await request.then((value) => ({ value }), (error) => error);
  check(result instanceof HeadgateError, result);
  return result;
}

export function check(truth, found) {
  if (!truth) throw new Error(`It is not so: ${found instanceof Error ? `${found.code} ${found.started} ${found.message}` : JSON.stringify(found)}`);
}
