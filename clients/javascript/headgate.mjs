// A client of a Headgate gateway, for Node and for browsers, written from docs/protocol.md.
// SPDX-License-Identifier: Apache-2.0

import { Arrivals, TAGS } from "./chunks.mjs";
import { HeadgateError, ProtocolError } from "./errors.mjs";
import { decodeBatch } from "./frames.mjs";
import { locate, login } from "./login.mjs";
import { Outbox } from "./outbox.mjs";
import { decode, encode } from "./payload.mjs";

export { HeadgateError } from "./errors.mjs";
export { Ticket } from "./login.mjs";
export { decode, encode } from "./payload.mjs";
export { Dataset, NumberArray } from "./tables.mjs";
export { Float, FrozenSet, Tuple, Typed } from "./types.mjs";

const PING_AFTER_MS = 2000;
const DEAD_AFTER_MS = 6000;
const LOOK_MS = 500;
const ANSWER_GRACE_MS = 50;
const FATE_MS = 60_000;
const DAY_S = 86_400;
/** A browser's WebSocket may not send 1002. */
const PROTOCOL_BROKEN = 4002;

const now = () => performance.now();

/**
 * Connect to a gateway and log in: in one way, by default as the gateway's owner.
 *
 * @param {string} [url] such as `wss://hub.example.org:8188`, or `ws://127.0.0.1:8188` on this machine
 * @param {object} [options]
 * @param {string} [options.user] the user to log in as, with a password
 * @param {string | (() => string | Promise<string>)} [options.password]
 * @param {string | (() => string | Promise<string>)} [options.token] an API token
 * @param {Ticket} [options.ticket] the `ticket` of a client before
 * @param {boolean} [options.anonymous] log in as nobody, which a gateway must allow
 * @param {string} [options.localToken] the 64 hex digits of the owner's local token; Node finds the user's own by itself
 * @param {string} [options.project] the project that this client belongs to
 * @param {string} [options.hostName] the host name that it claims
 * @param {string} [options.software] its name in the gateway's log
 * @param {typeof WebSocket} [options.WebSocket] the class to use instead of the built-in one or that of `ws`
 * @returns {Promise<Client>}
 * @throws {HeadgateError} `unreachable` or `denied`
 */
export async function connect(url = "ws://127.0.0.1:8188", options = {}) {
  const { socket, inbox, welcome, ticket } = await login(locate(url), options);
  return new Client(socket, welcome, inbox.rest(), ticket);
}

/** A session with a gateway. It does not connect again by itself: `closed` tells when it is over. */
export class Client {
  #socket;
  #welcome;
  #outbox;
  #calls = new Map();
  #over = new Map();
  #arrivals = new Arrivals();
  #last = 0;
  #heard = now();
  #looked = now();
  #asked = false;
  #timer;
  #ended;
  #ticket;

  /** @private use `connect` */
  constructor(socket, welcome, rest, ticket) {
    this.#socket = socket;
    this.#ticket = ticket;
    this.#welcome = welcome;
    this.#outbox = new Outbox(socket, now);
    /** Resolves with the reason when the connection is over. @type {Promise<string>} */
    this.closed = new Promise((resolve) => (this.#ended = resolve));
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ reason }) => this.#end(reason || "the connection broke");
    socket.onerror = () => {};
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    for (const data of rest) this.#receive(data);
  }

  /** The session's id, 20 hex digits. */
  get session() {
    return this.#welcome.session;
  }

  /** The gateway's name. */
  get gateway() {
    return this.#welcome.gateway;
  }

  /** What the gateway gave for the next login, for the option `ticket`; undefined if it gave none. @type {Ticket | undefined} */
  get ticket() {
    return this.#ticket;
  }

  /** Who this client is, as the gateway verified it. */
  get user() {
    return this.#welcome.user;
  }

  /**
   * Call a message handler.
   *
   * @param {string} project
   * @param {string} handler
   * @param {unknown} [payload] what `encode` takes; handlers expect an object with keys of type string
   * @param {object} [options]
   * @param {number} [options.timeout] seconds until it must be over, 60 by default; at most a day
   * @param {(value: unknown) => void} [options.onProgress] takes each value that the handler reports
   * @param {AbortSignal} [options.signal] aborting it cancels the request
   * @param {string} [options.remote] the gateway of the Gateway Network that is to answer
   * @returns {Promise<unknown>} the handler's result
   * @throws {HeadgateError} every other end: see `code`, `started`, `details` and `fate`
   */
  async request(project, handler, payload = {}, options = {}) {
    const extensions = options.remote === undefined ? {} : { remote: options.remote };
    return this.#call("Call", { project, handler, extensions }, payload, options);
  }

  /**
   * Send a message: one way, to every receiver that the scope selects.
   *
   * @param {string} project
   * @param {string} handler
   * @param {unknown} [payload]
   * @param {object} [options]
   * @param {string} [options.scope] kinds of receivers: `G`, the gateway, by default
   * @param {Record<string, string>} [options.filters] limits by session
   * @param {number} [options.timeout] seconds to wait for the report
   * @param {AbortSignal} [options.signal] aborting it gives the report up
   * @returns {Promise<string[]>} the delivery report, a line for each receiver
   */
  async message(project, handler, payload = {}, { scope = "G", filters = {}, ...options } = {}) {
    return this.#call("Cast", { project, handler, scope, filters }, payload, options);
  }

  /**
   * Say goodbye and close the connection; open requests end with `connection_lost`.
   *
   * @param {string} [reason] for people
   * @returns {Promise<string>} `closed`
   */
  close(reason = "the client closes") {
    if (this.#open) {
      this.#end(reason);
      this.#outbox.end(reason);
      this.#closeSocket(1000, reason);
    }
    return this.closed;
  }

  #call(frame, fields, payload, { timeout = 60, onProgress, signal }) {
    const where = `${fields.project}/${fields.handler}`;
    if (!(timeout > 0)) throw new RangeError(`The timeout of ${where} must be seconds above 0, not ${timeout}`);
    const bytes = encode(payload);
    if (signal?.aborted) throw cancelled(where, false, signal);
    this.#admit(where, bytes.length);
    return new Promise((resolve, reject) => {
      const id = ++this.#last;
      const wait = Math.min(timeout, DAY_S) * 1000;
      const call = { where, resolve, reject, onProgress, signal, deadline: now() + wait, begun: false };
      call.entry = this.#outbox.add(frame, { ...fields, id, payload: bytes, deadline: call.deadline });
      call.timer = setTimeout(() => this.#overdue(id, call), wait + ANSWER_GRACE_MS);
      call.abort = () => this.#cancel(id, call);
      signal?.addEventListener("abort", call.abort, { once: true });
      this.#calls.set(id, call);
    });
  }

  /** Refuse a call at once that has no connection, or is beyond the credit that `Welcome` gave. */
  #admit(where, bytes) {
    if (!this.#open) throw new HeadgateError("unreachable", `${where} was not called: the connection is closed`, { started: false });
    const { in_flight, unsent } = this.#welcome;
    const full =
      this.#calls.size >= in_flight ? `${in_flight} requests are open` : this.#outbox.waiting + bytes > unsent && `${unsent} bytes wait to be sent`;
    if (full) throw new HeadgateError("overloaded", `${where} was not called: ${full}`, { started: false });
  }

  // The end of a call: it leaves the table, and every later word on it is for its fate alone.

  #finish(id, call, settle) {
    this.#calls.delete(id);
    clearTimeout(call.timer);
    call.signal?.removeEventListener("abort", call.abort);
    settle();
  }

  #fail(id, call, error) {
    this.#finish(id, call, () => call.reject(error));
  }

  #cancel(id, call) {
    const { sent, started, finished } = this.#giveUp(id, call);
    if (sent !== "unsent") this.#outbox.add("Cancel", { id });
    this.#fail(id, call, cancelled(call.where, started, call.signal, this.#fate(id, started, finished)));
  }

  #overdue(id, call) {
    const { sent, started, finished } = this.#giveUp(id, call);
    // The gateway ends the call by itself, but what is under way of its payloads it would go on with.
    if (sent === "partly" || finished) this.#outbox.add("Cancel", { id });
    this.#fail(id, call, overdue(call.where, started, this.#fate(id, started, finished)));
  }

  /** Drop what is under way of a call's payloads; how much of it was sent, did its handler begin, and is it known to have finished? */
  #giveUp(id, call) {
    const sent = this.#outbox.withdraw(call.entry);
    this.#arrivals.forget(TAGS.Progress, id);
    const finished = this.#arrivals.forget(TAGS.Result, id);
    const started = call.begun || finished || (sent === "sent" ? null : false);
    return { sent, started, finished };
  }

  /** The last word on the handler of a call that is over, as a promise. */
  #fate(id, started, finished = false) {
    if (started === false || finished) return Promise.resolve(finished ? "finished" : "not started");
    return new Promise((resolve) => {
      const fate = { word: started ? "still running" : "unknown" };
      fate.settle = (word) => {
        this.#over.delete(id);
        clearTimeout(fate.timer);
        resolve(word);
      };
      fate.timer = setTimeout(() => fate.settle(fate.word), FATE_MS);
      // Nobody should have to wait for it: in Node it does not keep the program alive.
      fate.timer.unref?.();
      this.#over.set(id, fate);
    });
  }

  // What arrives.

  #receive(data) {
    if (!this.#open) return;
    this.#heard = now();
    this.#asked = false;
    try {
      if (typeof data === "string") throw new ProtocolError("a text message");
      const { sent, frames } = decodeBatch(new Uint8Array(data));
      for (const frame of frames) if (this.#open) this.#act(frame, sent);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#shut(PROTOCOL_BROKEN, error.message);
    }
  }

  #act(frame, sent) {
    switch (frame.frame) {
      case "Ping":
        return this.#outbox.addUrgent("Pong", { sent });
      case "Bye":
        return this.#shut(1000, frame.reason || "the gateway said goodbye");
      case "Started":
        return frame.ids.forEach((id) => this.#began(id));
      case "Progress":
        return this.#progress(frame);
      case "Result":
        return this.#result(frame);
      case "Fault":
        return this.#fault(frame);
      case "Chunk":
        return this.#chunk(frame);
      case "Fate":
        return this.#fateArrived(frame);
      case "Item":
        throw new ProtocolError("values of a call that takes none");
    }
  }

  #began(id) {
    const call = this.#calls.get(id);
    const fate = this.#over.get(id);
    if (call) call.begun = true;
    if (fate) fate.word = "still running";
  }

  #progress(frame) {
    const { id, payload, size } = frame;
    this.#began(id);
    const call = this.#calls.get(id);
    if (!call) return;
    if (size) return this.#arrive(frame, call);
    if (!call.onProgress) return;
    const value = this.#decoded(id, call, "progress", payload);
    // In a turn of its own: what it throws is reported as uncaught, and breaks nothing here.
    if (value) queueMicrotask(() => call.onProgress(value.value));
  }

  #result(frame) {
    const { id, payload, size } = frame;
    const call = this.#calls.get(id);
    const isLate = !call || now() > call.deadline;
    // The rest of a result that nobody waits for need not come.
    if (size && isLate && (call || this.#over.has(id))) this.#outbox.add("Cancel", { id });
    if (!call) return this.#over.get(id)?.settle("finished");
    call.begun = true;
    this.#arrivals.forget(TAGS.Progress, id);
    if (size && !isLate) return this.#arrive(frame, call);
    // The deadline rules everything, also within the grace.
    if (isLate) return this.#fail(id, call, overdue(call.where, true, Promise.resolve("finished")));
    const result = this.#decoded(id, call, "result", payload);
    if (result) this.#finish(id, call, () => call.resolve(result.value));
  }

  /** Take the frame that announces a payload, or the next part of one. */
  #arrive(frame, call) {
    this.#arrived(frame.id, call, () => this.#arrivals.begin(frame));
  }

  #chunk({ of, id, data }) {
    if (this.#arrivals.has(of, id)) return this.#arrived(id, this.#calls.get(id), () => this.#arrivals.add(of, id, data));
    const isOver = (of === TAGS.Progress || of === TAGS.Result) && id <= this.#last && !this.#calls.has(id);
    if (!isOver) throw new ProtocolError(`a part of a payload that was not announced: frame ${of} of ${id}`);
  }

  #arrived(id, call, take) {
    try {
      const whole = take();
      if (whole) this.#act(whole);
    } catch (error) {
      if (!(error instanceof HeadgateError)) throw error;
      this.#refuse(id, call, error);
    }
  }

  /** The value in a box; undefined if it cannot be read, which ends the call. */
  #decoded(id, call, what, payload) {
    try {
      return { value: decode(payload) };
    } catch (cause) {
      this.#refuse(id, call, new HeadgateError("payload", `The ${what} cannot be read: ${cause.message}`, { cause }));
    }
  }

  /** End a call because of what the gateway answers. */
  #refuse(id, call, cause) {
    this.#giveUp(id, call);
    this.#outbox.add("Cancel", { id });
    this.#fail(id, call, new HeadgateError(cause.code, `${call.where}: ${cause.message}`, { started: true, cause }));
  }

  #fault({ id, code, message, started, details }) {
    const call = this.#calls.get(id);
    if (!call) {
      const word = code === "handler_error" ? "finished" : started === false && "not started";
      if (word) this.#over.get(id)?.settle(word);
      return;
    }
    started ??= call.begun || null;
    this.#giveUp(id, call);
    const fate = code === "timeout" || code === "cancelled" ? this.#fate(id, started) : undefined;
    this.#fail(id, call, new HeadgateError(code, message || `${call.where} failed: ${code}`, { started, details, fate }));
  }

  #fateArrived({ id, fate: word }) {
    if (word !== "not started" && word !== "unknown") this.#began(id);
    const fate = this.#over.get(id);
    if (!fate) return;
    if (word === "still running" || word === "unknown") fate.word = word;
    else fate.settle(word);
  }

  // Signs of life, and the end.

  #look() {
    const time = now();
    const late = time - this.#looked > 3 * LOOK_MS;
    this.#looked = time;
    const silence = time - this.#heard;
    // Where this end slept, the peer's messages may be waiting behind this very look.
    if (this.#asked && silence >= DEAD_AFTER_MS && !late) return this.#shut(1000, "the gateway gives no sign of life");
    if (this.#asked || silence < PING_AFTER_MS) return;
    this.#asked = true;
    this.#outbox.addUrgent("Ping", {});
  }

  get #open() {
    return this.#timer !== undefined;
  }

  #shut(code, reason) {
    this.#end(reason);
    this.#closeSocket(code, reason);
  }

  #closeSocket(code, reason) {
    // The reason of a close frame has at most 123 bytes.
    this.#socket.close(code, reason.replace(/[^ -~]/g, "?").slice(0, 123));
  }

  #end(reason) {
    if (!this.#open) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    for (const [id, call] of this.#calls) {
      const error = new HeadgateError("connection_lost", `${call.where} has no answer: ${reason}`, { started: this.#giveUp(id, call).started });
      this.#fail(id, call, error);
    }
    for (const fate of this.#over.values()) fate.settle(fate.word);
    this.#outbox.clear();
    this.#ended(reason);
  }
}

function cancelled(where, started, signal, fate = Promise.resolve("not started")) {
  return new HeadgateError("cancelled", `${where} was cancelled`, { started, fate, cause: signal?.reason });
}

function overdue(where, started, fate) {
  return new HeadgateError("timeout", `${where} gave no result before the request's deadline`, { started, fate });
}
