// Payloads that travel in parts: what is left to send of each, and what has arrived.
// SPDX-License-Identifier: Apache-2.0

import { ProtocolError, refusePayload } from "./errors.mjs";

/** Bytes of a payload that one frame carries; a larger payload is sent in parts. */
export const CHUNK_BYTES = 64 * 1024;
/** Bytes of one payload, and of all in one direction that are under way in parts. */
const MAX_BYTES = 64 * 2 ** 20;
/** Payloads in one direction that are under way in parts. */
const MAX_PARTIAL = 64;

/** Tags of the frames that have a payload. */
export const TAGS = { Call: 1, Cast: 2, Progress: 5, Result: 6 };

const keyOf = (of, id) => `${of} ${id}`;

/** The payloads that are being sent, one part of each in turn; what would be too much waits until others are through. */
export class Departures {
  #moving = new Map();
  #waiting = new Map();
  #bytes = 0;

  get isEmpty() {
    return this.#moving.size === 0;
  }

  /** Keep the rest of a payload to send it later; returns what its frame carries of it. */
  split(of, id, payload) {
    // While another one is being sent, not even a first part stands before what follows.
    const first = this.isEmpty ? CHUNK_BYTES : 0;
    const departure = { of, id, rest: payload.subarray(first), size: payload.length };
    if (this.#hasRoom(departure)) this.#move(departure);
    else this.#waiting.set(keyOf(of, id), departure);
    return payload.subarray(0, first);
  }

  /** The fields of the next `Chunk`. */
  next() {
    const [key, departure] = this.#moving.entries().next().value;
    const { of, id, rest } = departure;
    departure.rest = rest.subarray(CHUNK_BYTES);
    this.#moving.delete(key);
    if (departure.rest.length) this.#moving.set(key, departure);
    else this.#gone(departure);
    return { of, id, data: rest.subarray(0, CHUNK_BYTES) };
  }

  /** Whether some of a payload is still to be sent. */
  has(of, id) {
    return this.#moving.has(keyOf(of, id)) || this.#waiting.has(keyOf(of, id));
  }

  /** Send no more of a payload; returns the bytes that were left of it. */
  stop(of, id) {
    const key = keyOf(of, id);
    const moving = this.#moving.get(key);
    const departure = moving ?? this.#waiting.get(key);
    this.#moving.delete(key);
    this.#waiting.delete(key);
    if (moving) this.#gone(moving);
    return departure?.rest.length ?? 0;
  }

  #hasRoom({ size }) {
    return this.isEmpty || (this.#moving.size < MAX_PARTIAL && this.#bytes + size <= MAX_BYTES);
  }

  #move(departure) {
    this.#moving.set(keyOf(departure.of, departure.id), departure);
    this.#bytes += departure.size;
  }

  #gone({ size }) {
    this.#bytes -= size;
    for (const [key, departure] of this.#waiting) {
      if (!this.#hasRoom(departure)) continue;
      this.#waiting.delete(key);
      this.#move(departure);
    }
  }
}

/** The payloads that arrive in parts. */
export class Arrivals {
  #table = new Map();
  #bytes = 0;

  /** Take the frame that announces a payload; returns it if the payload is whole already. */
  begin(frame) {
    const of = TAGS[frame.frame];
    if (frame.size < 0 || frame.size > MAX_BYTES) refusePayload(`A payload of ${frame.size} bytes was announced, ${MAX_BYTES} are allowed`);
    if (of === TAGS.Progress) this.forget(of, frame.id);
    if (this.#table.has(keyOf(of, frame.id))) throw new ProtocolError(`the payload of ${frame.id} was announced twice`);
    this.#table.set(keyOf(of, frame.id), { frame, parts: [], length: 0 });
    return this.add(of, frame.id, frame.payload);
  }

  has(of, id) {
    return this.#table.has(keyOf(of, id));
  }

  /** Take the next part; returns the frame with its payload when it is whole. */
  add(of, id, part) {
    const arrival = this.#table.get(keyOf(of, id));
    const { frame, parts } = arrival;
    // Bytes are counted as they come: what a frame claims to follow costs nothing.
    if (this.#bytes + part.length > MAX_BYTES) refusePayload(`The payloads that are arriving have more than ${MAX_BYTES} bytes together`);
    this.#bytes += part.length;
    arrival.length += part.length;
    parts.push(part);
    if (arrival.length > frame.size) throw new ProtocolError(`more than the ${frame.size} bytes that were announced for the payload of ${id}`);
    if (arrival.length < frame.size) return undefined;
    this.forget(of, id);
    return { ...frame, payload: joined(parts, frame.size), size: 0 };
  }

  /** Let a payload go; whether there was something of it. */
  forget(of, id) {
    const arrival = this.#table.get(keyOf(of, id));
    if (!arrival) return false;
    this.#bytes -= arrival.length;
    return this.#table.delete(keyOf(of, id));
  }
}

function joined(parts, size) {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
