// The login: who proves what to whom, and where the token and the WebSocket come from.
// SPDX-License-Identifier: Apache-2.0

import { HeadgateError, ProtocolError } from "./errors.mjs";
import { decodeGreeting, encodeFrame } from "./frames.mjs";
import { fromHex } from "./types.mjs";

const LOGIN_MS = 10_000;
const inNode = Boolean(globalThis.process?.versions?.node);

/** The URL of the channel and the address that the proofs are bound to. */
export function locate(url) {
  const channel = new URL(url);
  if (channel.protocol !== "ws:") throw new TypeError(`${url} must begin with ws://: this version knows no other transport`);
  // The proofs need the address. A name could lead to any, so the one that is meant is written out.
  if (channel.hostname === "localhost") channel.hostname = "127.0.0.1";
  if (!/^(127(\.\d+){3}|\[::1\])$/.test(channel.hostname)) {
    throw new TypeError(`${url} must name a loopback address, such as ws://127.0.0.1:8188: gateways listen on no other`);
  }
  if (channel.pathname === "/") channel.pathname = "/channel";
  const port = channel.port || "80";
  return { channel: channel.href, address: `${channel.hostname}:${port}`, port };
}

/**
 * Open a WebSocket and log in.
 *
 * @returns {Promise<{socket: WebSocket, inbox: Inbox, welcome: object}>}
 */
export async function login({ channel, address, port }, options) {
  const key = await tokenKey(options.token ?? (await localToken(port)));
  const WebSocket = options.WebSocket ?? (await webSocket());
  const socket = new WebSocket(channel);
  socket.binaryType = "arraybuffer";
  const inbox = new Inbox(socket, channel);
  const timer = setTimeout(() => inbox.fail(unreachable(`${channel} did not let this client in within 10 s`)), LOGIN_MS);
  try {
    await inbox.opened;
    const welcome = await greet(inbox, key, address, options);
    return { socket, inbox, welcome };
  } catch (error) {
    socket.close(1000);
    throw error instanceof ProtocolError ? unreachable(`${channel} is no gateway of this protocol: ${error.message}`) : error;
  } finally {
    clearTimeout(timer);
  }
}

/** The four messages of the login; returns the fields of `Welcome`. */
async function greet(inbox, key, address, options) {
  const nonce = options.nonce ?? (await webCrypto()).getRandomValues(new Uint8Array(32));
  inbox.send("Hello", {
    versions: [1],
    features: ["progress", "fate"],
    method: "local",
    nonce,
    project: options.project,
    host_name: options.hostName,
    software: options.software ?? "headgate-javascript",
  });
  const challenge = await inbox.expect("Challenge");
  if (!(await key.verify("gateway", address, nonce, challenge))) {
    throw new HeadgateError("denied", `Whoever listens at ${address} does not know the token: it is not this user's gateway`, { started: false });
  }
  inbox.send("Proof", { proof: await key.sign("client", address, nonce, challenge) });
  const welcome = await inbox.expect("Welcome");
  if (welcome.version !== 1) throw new ProtocolError(`it chose the version ${welcome.version}`);
  return welcome;
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
    if (greeting.frame === "Refuse") throw new HeadgateError(greeting.code, greeting.message, { started: false });
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
  if (!/^[0-9a-fA-F]{64}$/.test(token)) throw new TypeError("A token has 64 hex digits");
  const { subtle } = await webCrypto();
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await subtle.importKey("raw", fromHex(token), algorithm, false, ["sign", "verify"]);
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
  if (!inNode) throw new TypeError("In a browser connect() needs the option `token`");
  const [{ readFile, stat }, { join }] = await Promise.all([import("node:fs/promises"), import("node:path")]);
  const pointer = join(await headgateHome(), "ports", port);
  const file = await readFile(pointer, "utf8").catch((cause) => {
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
