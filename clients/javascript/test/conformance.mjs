// Runs the conformance vectors of tests/protocol/vectors/ against this client, in Node and in browsers.
// SPDX-License-Identifier: Apache-2.0

import { TAGS } from "../chunks.mjs";
import { decodeBatch, decodeGreeting, encodeBatch, encodeFrame } from "../frames.mjs";
import { connect, Dataset, decode, encode, Float, FrozenSet, NumberArray, Tuple, Typed } from "../headgate.mjs";
import { proof, Ticket } from "../login.mjs";
import { fromHex, toHex } from "../types.mjs";

/**
 * Every case of the files, as a name and a function that throws if the client fails it.
 *
 * @param {Record<string, object>} files the parsed files by name: payloads, frames, proofs, sessions
 * @returns {[string, () => unknown][]}
 */
export function cases({ payloads, frames, proofs, sessions }) {
  const each = (list, title, run) => list.map((vector) => [`${title}: ${vector.name}`, () => run(vector)]);
  return [
    ...each(payloads.values, "payload", checkPayload),
    ...each(payloads.refused, "refused payload", ({ bytes }) => refused(() => decode(fromHex(bytes)))),
    ...each(frames.batches, "batch", checkBatch),
    ...each(frames.greetings, "greeting", checkGreeting),
    ...each(frames.refused_batches, "refused batch", (vector) => refused(() => decodeBatch(bytesOf(vector)))),
    ...each(frames.refused_greetings, "refused greeting", (vector) => refused(() => decodeGreeting(bytesOf(vector)))),
    ...each(proofs.proofs, "proof", checkProof),
    ...each(sessions.sessions.filter(({ role }) => role === "client"), "session", (script) => play(sessions, script)),
  ];
}

/** The bytes of a vector; `then` adds a part so many times. */
function bytesOf({ bytes, then: [part, times] = ["", 0] }) {
  return fromHex(bytes + part.repeat(times));
}

// Payloads.

function checkPayload({ value, bytes, also = [], unordered }) {
  const wanted = made(value);
  for (const form of [bytes, ...also]) equal(decode(fromHex(form)), received(wanted));
  if (unordered) equal(decode(encode(wanted)), received(wanted));
  else equal(toHex(encode(wanted)), bytes);
}

/** The value that a description means, as it is sent. */
export function made([type, content]) {
  const members = () => content.map(made);
  switch (type) {
    case "nil": return null;
    case "bool": case "str": return content;
    case "int": return Number.isSafeInteger(Number(content)) ? Number(content) : BigInt(content);
    case "float": return /^-?[1-9]\d*\.0$|^0\.0$|e\+/.test(content) ? new Float(content) : Number(content);
    case "bin": return fromHex(content);
    case "array": return members();
    case "tuple": return Tuple.from(members());
    case "set": return new Set(members());
    case "frozenset": return new FrozenSet(members());
    case "dataset": return new Dataset(content.columns, content.types, content.rows.map((row) => row.map(made)));
    case "ndarray": return new NumberArray(content.element, content.shape, fromHex(content.bytes), content.order);
    case "map": return madeMap(content.map((pair) => pair.map(made)));
  }
  return new Typed(type, content);
}

function madeMap(entries) {
  return entries.every(([key]) => typeof key === "string") ? Object.fromEntries(entries) : new Map(entries);
}

/** The same value as it arrives: a float without a fraction is a number like any other. */
function received(value) {
  if (value instanceof Float) return Number(value);
  if (Array.isArray(value)) return value.map(received);
  if (value instanceof FrozenSet) return new FrozenSet([...value].map(received));
  if (value instanceof Set) return new Set([...value].map(received));
  if (value instanceof Map) return new Map([...value].map((pair) => pair.map(received)));
  if (value instanceof Dataset) return new Dataset(value.columns, value.types, received(value.rows));
  if (value?.constructor !== Object) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, received(member)]));
}

// Frames and proofs.

function checkBatch({ sent, frames, bytes }) {
  const batch = decodeBatch(fromHex(bytes));
  equal(batch.sent, sent);
  matchAll(batch.frames, frames);
  const again = decodeBatch(encodeBatch(sent, frames.map(encoded)));
  matchAll(again.frames, frames);
}

function checkGreeting({ frame, bytes }) {
  match(decodeGreeting(fromHex(bytes)), frame);
  match(decodeGreeting(encoded(frame)), frame);
}

function encoded(described) {
  const { frame, ...fields } = plain(described);
  return encodeFrame(frame, fields);
}

/** A described frame's fields as values: `{"hex": …}` stands for bytes. */
function plain(value) {
  if (typeof value?.hex === "string") return fromHex(value.hex);
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, plain(member)]));
}

/** Whether a frame has all that a description names. */
function match(frame, described) {
  for (const [name, value] of Object.entries(plain(described))) equal(frame[name], value, name);
}

function matchAll(frames, described) {
  equal(frames.length, described.length, `frames: ${frames.map(({ frame }) => frame)}`);
  described.forEach((description, index) => match(frames[index], description));
}

async function checkProof({ token, address, client_nonce, gateway_nonce, gateway_proof, client_proof }) {
  const nonces = [fromHex(client_nonce), fromHex(gateway_nonce)];
  equal(toHex(await proof(token, "gateway", address, ...nonces)), gateway_proof);
  equal(toHex(await proof(token, "client", address, ...nonces)), client_proof);
}

// Sessions.

/** A WebSocket whose other end is the script. */
function scriptedSocket() {
  return class ScriptedSocket {
    static last;
    sent = [];
    bufferedAmount = 0;

    constructor() {
      ScriptedSocket.last = this;
      queueMicrotask(() => this.onopen());
    }

    send(bytes) {
      this.sent.push(bytes.slice());
    }

    close(code, reason) {
      this.code ??= code;
      queueMicrotask(() => this.onclose({ code, reason }));
    }
  };
}

async function play(file, script) {
  const player = new Player({ ...file, ...script });
  await until(() => player.Socket.last);
  if (!script.login) await player.open(file);
  try {
    for (const step of script.steps) await player.step(step);
  } finally {
    await player.end();
  }
}

class Player {
  constructor({ token, address, client_nonce, claim }) {
    this.Socket = scriptedSocket();
    const url = address === "tls" ? "wss://hub.example.org:8188" : `ws://${address}`;
    const credentials = { ...claimed(claim), localToken: token };
    this.opening = connect(url, { ...credentials, nonce: fromHex(client_nonce), WebSocket: this.Socket });
    this.opening.catch(() => {});
    this.calls = new Map();
    this.frames = [];
  }

  get socket() {
    return this.Socket.last;
  }

  async open({ challenge, welcome }) {
    for (const bytes of [challenge, welcome]) {
      await until(() => this.socket.sent.length);
      this.socket.sent.length = 0;
      this.receive(bytes);
    }
    this.client = await this.opening;
  }

  async end() {
    if (!this.client) return;
    const ends = [...this.calls.values()].map(({ end }) => end);
    await this.client.close();
    await Promise.all(ends);
  }

  receive(bytes) {
    this.socket.onmessage({ data: fromHex(bytes).buffer });
  }

  async step(step) {
    const [kind] = Object.keys(step);
    await this[`on_${kind}`](step);
  }

  on_in(step) {
    this.receive(step.in);
  }

  async on_out({ out }) {
    const frames = [];
    const take = () => {
      for (const bytes of this.socket.sent.splice(0)) frames.push(...framesOf(bytes, !this.client));
      return frames.length >= out.length;
    };
    await until(take);
    await pause(1);
    take();
    matchAll(frames, out);
  }

  /** A large payload leaves in parts; what belongs to others is kept for them. */
  async on_sends({ sends: id, of, text }) {
    const isIts = (frame) => frame.id === id && (frame.frame === "Chunk" ? frame.of === of : TAGS[frame.frame] === of);
    const parts = () => this.frames.filter(isIts);
    const length = () => parts().reduce((sum, { payload, data }) => sum + (payload ?? data).length, 0);
    await until(() => {
      for (const bytes of this.socket.sent.splice(0)) this.frames.push(...decodeBatch(bytes).frames);
      return length() >= parts()[0]?.size;
    });
    const bytes = parts().flatMap(({ payload, data }) => [...(payload ?? data)]);
    equal(bytes.length, parts()[0]?.size, "size");
    equal(decode(Uint8Array.from(bytes)), "x".repeat(text));
  }

  on_do({ do: act, ...step }) {
    this[act](step);
  }

  call({ project, handler, payload, text, timeout }) {
    const abort = new AbortController();
    const call = { abort, values: [] };
    const options = { timeout, signal: abort.signal, onProgress: (value) => call.values.push(value) };
    call.end = this.client.request(project, handler, text ? "x".repeat(text) : decode(fromHex(payload)), options).then(
      (result) => ({ result }),
      (error) => ({ error }),
    );
    this.calls.set(this.calls.size + 1, call);
  }

  cancel({ id }) {
    this.calls.get(id).abort.abort();
  }

  close() {
    this.client.close();
  }

  /** `or`: what a client may take an unknown code for; this one keeps it. */
  async on_ends({ ends, result, code, started }) {
    const end = await soon(this.calls.get(ends).end);
    if (code === undefined) return equal(end.result, received(made(result)));
    equal(end.error?.code, code, "code");
    equal(end.error.started, started, "started");
  }

  async on_progress({ progress, values }) {
    await pause(1);
    equal(this.calls.get(progress).values, values.map((value) => received(made(value))));
  }

  async on_fate({ fate, is }) {
    const { error } = await soon(this.calls.get(fate).end);
    equal(await soon(error.fate), is, "fate");
  }

  async on_wait({ wait }) {
    await pause(wait * 1000);
  }

  /** A client whose WebSocket cannot send 1002 says 4002. */
  async on_closes({ closes }) {
    await until(() => this.socket.code);
    equal(this.socket.code, closes === 1002 ? 4002 : closes, "close code");
  }

  async on_open({ open }) {
    this.client = await this.opening;
    match(this.client, open);
  }

  on_ticket({ ticket: wanted }) {
    const { ticket } = this.client;
    if (!wanted) return equal(ticket, undefined, "ticket");
    const { blob, key } = Ticket.open(ticket);
    equal({ blob: toHex(blob), key: toHex(key), s: ticket.seconds }, wanted, "ticket");
    equal(JSON.stringify(ticket), JSON.stringify({ seconds: ticket.seconds }), "what a ticket shows");
  }

  async on_refused({ refused: code }) {
    const error = await this.opening.then(() => undefined, (error) => error);
    if (!error) throw new Error("The client let itself be welcomed");
    if (code) equal(error.code, code, "code");
    equal(this.socket.sent.length, 0, "messages after it");
    equal(typeof this.socket.code, "number", "the connection is closed");
  }
}

/** The options that a script's way to log in means. */
function claimed({ method, ticket, ticket_key: key, ...rest } = {}) {
  if (method === "anonymous") return { anonymous: true };
  if (method !== "ticket") return rest;
  return { ticket: Ticket.of({ ticket: fromHex(ticket), ticket_key: fromHex(key), ticket_seconds: 60 }) };
}

function framesOf(bytes, isLogin) {
  return isLogin ? [decodeGreeting(bytes)] : decodeBatch(bytes).frames;
}

// Comparing.

function refused(decoding) {
  let value;
  try {
    value = decoding();
  } catch (error) {
    if (error.code === "payload" || error.name === "ProtocolError") return;
    throw error;
  }
  throw new Error(`It was not refused, but read as ${show(value)}`);
}

function equal(found, wanted, what = "value") {
  if (!same(found, wanted)) throw new Error(`${what}: found ${show(found)}, wanted ${show(wanted)}`);
}

function same(a, b) {
  if (Object.is(a, b)) return true;
  if (a === null || b === null || typeof a !== "object" || typeof b !== "object") return false;
  if (a.constructor !== b.constructor) return false;
  if (a instanceof Set) return a.size === b.size && [...a].every((x) => [...b].some((y) => same(x, y)));
  if (a instanceof Map) return same([...a], [...b]);
  if (a instanceof Typed) return a.type === b.type && a.text === b.text;
  if (ArrayBuffer.isView(a)) return a.length === b.length && a.every((x, i) => Object.is(x, b[i]));
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}

function show(value) {
  const text = JSON.stringify(value, (_, member) => (typeof member === "bigint" ? `${member}n` : member));
  return `${value?.constructor?.name ?? ""} ${text?.slice(0, 300)}`;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What a promise gives, which must be there before the heartbeat ends the session. */
function soon(promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("It did not come to pass")), 1500);
    promise.finally(() => clearTimeout(timer)).then(resolve, reject);
  });
}

async function until(condition) {
  for (const end = performance.now() + 2000; !condition(); await pause(1)) {
    if (performance.now() > end) return;
  }
}
