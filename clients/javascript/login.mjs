// The login: who proves what to whom, and where the token and the WebSocket come from.
// SPDX-License-Identifier: Apache-2.0

import { HeadgateError, ProtocolError } from "./errors.mjs";
import { decodeGreeting, encodeFrame } from "./frames.mjs";
import { fromHex } from "./types.mjs";

const LOGIN_MS = 10_000;
const inNode = Boolean(globalThis.process?.versions?.node);

const MAX_SECRET = 1024;
const MIN_NONCE = 32;
/** Stands for the address in the proofs of a connection with TLS: there the certificate says who the gateway is. */
const OVER_TLS = "tls";

/** What a gateway gave for the next login: hand it to `connect` as the option `ticket`. It shows nothing of itself. */
export class Ticket {
  #blob;
  #key;
  #until;

  /** @private a `Client` has it */
  constructor({ ticket, ticket_key: key, ticket_seconds: seconds }) {
    this.#blob = ticket;
    this.#key = key;
    this.#until = Date.now() + seconds * 1000;
    this.seconds = seconds;
  }

  /** Whether it is still good, as far as this side can tell. */
  get isGood() {
    return Date.now() < this.#until;
  }

  /** @private blob and key, for the login */
  static open(ticket) {
    if (!(ticket instanceof Ticket)) throw new TypeError("The option `ticket` takes a client's `ticket`");
    return { blob: ticket.#blob, key: ticket.#key };
  }

  /** The ticket in the extensions of a Welcome; undefined if there is none, or one that is malformed. */
  static of({ ticket, ticket_key: key, ticket_seconds: seconds }) {
    const isBlob = ticket instanceof Uint8Array && ticket.length > 0 && ticket.length <= MAX_SECRET;
    const isKey = key instanceof Uint8Array && key.length === 32;
    const isGood = typeof seconds === "number" && seconds > 0 && seconds < Infinity;
    return isBlob && isKey && isGood ? new Ticket({ ticket, ticket_key: key, ticket_seconds: seconds }) : undefined;
  }
}

/** The URL of the channel and the address that the proofs are bound to. */
export function locate(url) {
  const channel = new URL(url);
  if (channel.pathname === "/") channel.pathname = "/channel";
  if (channel.protocol === "wss:") return { channel: channel.href, address: OVER_TLS, port: channel.port || "443", secure: true };
  if (channel.protocol !== "ws:") throw new TypeError(`${url} must begin with ws:// or wss://`);
  // The proofs need the address. A name could lead to any, so the one that is meant is written out.
  if (channel.hostname === "localhost") channel.hostname = "127.0.0.1";
  if (!/^(127(\.\d+){3}|\[::1\])$/.test(channel.hostname)) {
    throw new TypeError(`${url} leads to another machine, where others can read what is sent: write wss://, or a loopback address such as ws://127.0.0.1:8188`);
  }
  const port = channel.port || "80";
  return { channel: channel.href, address: `${channel.hostname}:${port}`, port, secure: false };
}

/**
 * Open a WebSocket and log in.
 *
 * @returns {Promise<{socket: WebSocket, inbox: Inbox, welcome: object, ticket: Ticket | undefined}>}
 */
export async function login(place, options) {
  const { channel, address } = place;
  const claim = await claimOf(place, options);
  const WebSocket = options.WebSocket ?? (await webSocket());
  const socket = new WebSocket(channel);
  socket.binaryType = "arraybuffer";
  const inbox = new Inbox(socket, channel);
  const timer = setTimeout(() => inbox.fail(unreachable(`${channel} did not let this client in within 10 s`)), LOGIN_MS);
  try {
    await inbox.opened;
    const welcome = await greet(inbox, claim, address, options);
    const ticket = Ticket.of(welcome.extensions);
    delete welcome.extensions;
    return { socket, inbox, welcome, ticket };
  } catch (error) {
    socket.close(1000);
    throw error instanceof ProtocolError ? unreachable(`${channel} is no gateway of this protocol: ${error.message}`) : error;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * How this client logs in: the method, what it shows in `Hello`, the key that the gateway has to prove, and what to send then.
 *
 * @returns {Promise<{method: string, shown: object, key?: object, secret?: Uint8Array}>} without `secret` a proof of the key is sent
 */
async function claimOf(place, { user, password, token, ticket, anonymous, localToken: known }) {
  const given = Object.entries({ password: password ?? user, token, ticket, anonymous: anonymous || undefined });
  const kinds = given.filter(([, value]) => value !== undefined).map(([kind]) => kind);
  if (kinds.length > 1) throw new TypeError(`Log in in one way, not with ${kinds.join(" and ")}`);
  const [method = "local"] = kinds;
  if (method === "password" && (typeof user !== "string" || !user || password === undefined)) {
    throw new TypeError("To log in with a password give both `user` and `password`");
  }
  if (method === "local") return { method, shown: {}, key: await tokenKey(known ?? (await localToken(place.port))) };
  if (method === "ticket") {
    const { blob, key } = Ticket.open(ticket);
    return { method, shown: { ticket: blob }, key: await hmacKey(key) };
  }
  const shown = method === "password" ? { user } : {};
  const key = await gatewayKey(place, method, known);
  return { method, shown, key, secret: await secretBytes(method, method === "password" ? password : token) };
}

/** The key by which a gateway without TLS shows that it is one, before a secret is sent to it. */
async function gatewayKey({ channel, port, secure }, method, known) {
  if (secure) return undefined;
  if (known !== undefined) return tokenKey(known);
  if (inNode) {
    const token = await localToken(port).catch((cause) => {
      if (method === "anonymous") return undefined;
      throw unreachable(`Nothing shows that what listens on ${channel} is the gateway, so no ${method} is sent there (${cause.message}): use wss://`, cause);
    });
    return token && tokenKey(token);
  }
  // A page cannot read the local token. Who served the page could ask for the secret as well.
  if (method === "anonymous" || globalThis.location?.host === new URL(channel).host) return undefined;
  throw new HeadgateError("denied", `This page is not ${channel}'s own, so no ${method} is sent there: use wss://`, { started: false });
}

/** A password or token in UTF-8; a function is asked for it. */
async function secretBytes(method, given) {
  if (method === "anonymous") return new Uint8Array(0);
  const secret = typeof given === "function" ? await given() : given;
  if (typeof secret !== "string" || !secret) throw new TypeError(`The ${method} must be a string that is not empty, or a function that gives one`);
  const bytes = new TextEncoder().encode(secret);
  if (bytes.length > MAX_SECRET) throw new TypeError(`The ${method} has more than ${MAX_SECRET} bytes`);
  return bytes;
}

/** The four messages of the login; returns the fields of `Welcome`. */
async function greet(inbox, { method, shown, key, secret }, address, options) {
  const nonce = options.nonce ?? (await webCrypto()).getRandomValues(new Uint8Array(32));
  inbox.send("Hello", {
    versions: [1],
    features: ["progress", "fate"],
    method,
    nonce,
    project: options.project,
    host_name: options.hostName,
    software: options.software ?? "headgate-javascript",
    extensions: shown,
  });
  const challenge = await inbox.expect("Challenge");
  if (key) await requireProof(key, method, address, nonce, challenge);
  inbox.send("Proof", { proof: secret ?? (await key.sign("client", address, nonce, challenge)) });
  const welcome = await inbox.expect("Welcome");
  if (welcome.version !== 1) throw new ProtocolError(`it chose the version ${welcome.version}`);
  return welcome;
}

async function requireProof(key, method, address, nonce, challenge) {
  if (challenge.nonce.length < MIN_NONCE) throw new ProtocolError("its random number is too short");
  if (await key.verify("gateway", address, nonce, challenge)) return;
  const what = method === "ticket" ? "the ticket's key" : "the local token";
  throw new HeadgateError("denied", `Whoever listens at ${address} does not know ${what}: it is not this user's gateway`, { started: false });
}

/** Messages of the login as they arrive, and what came after them. */
class Inbox {
  #socket;
  #messages = [];
  #waiter;
  #error;

  constructor(socket, channel) {
    this.#socket = socket;
    this.opened = new Promise((resolve, reject) => {
      socket.onopen = () => resolve();
      this.reject = reject;
    });
    socket.onmessage = ({ data }) => this.#push(data);
    socket.onerror = () => this.fail(unreachable(`No gateway lets this client in at ${channel}: is it running, and is a page's origin the gateway's?`));
    socket.onclose = ({ reason }) => this.fail(unreachable(`The gateway closed the connection during the login: ${reason || "no reason given"}`));
  }

  send(name, values) {
    this.#socket.send(encodeFrame(name, values));
  }

  async expect(name) {
    const data = await new Promise((resolve, reject) => {
      if (this.#messages.length) resolve(this.#messages.shift());
      else if (this.#error) reject(this.#error);
      else this.#waiter = { resolve, reject };
    });
    if (typeof data === "string") throw new ProtocolError("it sent a text message");
    const greeting = decodeGreeting(new Uint8Array(data));
    if (greeting.frame === "Refuse") throw new HeadgateError(greeting.code, greeting.message, { started: false, details: greeting.extensions });
    if (greeting.frame !== name) throw new ProtocolError(`it sent ${greeting.frame} where ${name} was due`);
    return greeting;
  }

  /** What arrived behind the last message of the login. */
  rest() {
    return this.#messages.splice(0);
  }

  fail(error) {
    this.#error ??= error;
    this.reject(error);
    this.#waiter?.reject(error);
  }

  #push(data) {
    if (!this.#waiter) return this.#messages.push(data);
    this.#waiter.resolve(data);
    this.#waiter = undefined;
  }
}

async function tokenKey(token) {
  if (!/^[0-9a-fA-F]{64}$/.test(token)) throw new TypeError("A local token has 64 hex digits");
  return hmacKey(fromHex(token));
}

async function hmacKey(bytes) {
  const { subtle } = await webCrypto();
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await subtle.importKey("raw", bytes, algorithm, false, ["sign", "verify"]);
  return {
    sign: async (label, address, nonce, challenge) =>
      new Uint8Array(await subtle.sign("HMAC", key, proofText(label, address, nonce, challenge.nonce))),
    // `verify` compares in constant time.
    verify: (label, address, nonce, challenge) =>
      subtle.verify("HMAC", key, challenge.proof, proofText(label, address, nonce, challenge.nonce)),
  };
}

function proofText(label, address, clientNonce, gatewayNonce) {
  const head = new TextEncoder().encode(`headgate 1 ${label} ${address} `);
  return Uint8Array.from([...head, ...clientNonce, ...gatewayNonce]);
}

/** The proof of one end, for tests. */
export async function proof(token, label, address, clientNonce, gatewayNonce) {
  return (await tokenKey(token)).sign(label, address, clientNonce, { nonce: gatewayNonce });
}

async function webCrypto() {
  const crypto = globalThis.crypto ?? (inNode && (await import("node:crypto")).webcrypto);
  if (!crypto?.subtle) throw new Error("WebCrypto is missing: open the page at http://127.0.0.1, which counts as secure");
  return crypto;
}

async function webSocket() {
  if (globalThis.WebSocket) return globalThis.WebSocket;
  const { createRequire } = await import("node:module");
  try {
    return createRequire(import.meta.url)("ws");
  } catch (cause) {
    throw new Error("This Node has no WebSocket: take Node 22 or later, or install the package ws", { cause });
  }
}

/** The token of the user's own gateway on a port, from its file. */
async function localToken(port) {
  if (!inNode) throw new TypeError("In a browser connect() needs a `user` and `password`, a `token` or another way to log in");
  const [{ readFile, stat }, { join }] = await Promise.all([import("node:fs/promises"), import("node:path")]);
  const pointer = join(await headgateHome(), "ports", port);
  // Behind a NUL stands the certificate of a port with TLS.
  const [file] = await readFile(pointer, "utf8").then((text) => text.split("\0"), (cause) => {
    throw unreachable(`No gateway of this user was started on port ${port}: ${pointer} is missing`, cause);
  });
  if (process.platform !== "win32" && (await stat(file)).mode & 0o077) {
    throw new HeadgateError("denied", `Others can read the token ${file}: chmod 600 it, and restart the gateway with a new one`, { started: false });
  }
  return (await readFile(file, "utf8")).trim();
}

async function headgateHome() {
  const [{ homedir }, { join }] = await Promise.all([import("node:os"), import("node:path")]);
  const { HEADGATE_HOME, XDG_DATA_HOME, LOCALAPPDATA } = process.env;
  if (HEADGATE_HOME) return HEADGATE_HOME;
  if (process.platform === "win32") return join(LOCALAPPDATA ?? join(homedir(), "AppData", "Local"), "headgate");
  if (process.platform === "darwin") return join(homedir(), "Library", "Application Support", "headgate");
  return join(XDG_DATA_HOME || join(homedir(), ".local", "share"), "headgate");
}

function unreachable(message, cause) {
  return new HeadgateError("unreachable", message, { started: false, cause });
}
