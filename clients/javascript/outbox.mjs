// What waits to be sent: the frames of one turn of the event loop leave in one message.
// SPDX-License-Identifier: Apache-2.0

import { CHUNK_BYTES, Departures, TAGS } from "./chunks.mjs";
import { encodeBatch, encodeFrame, MAX_FRAMES } from "./frames.mjs";

/** Bytes after which a message is closed and the next one begins. */
const BATCH_BYTES = 256 * 1024;
/** Bytes that the transport may hold: what is urgent overtakes the rest. */
const TRANSPORT_BYTES = 1024 * 1024;
/** How soon to look again whether the transport has room; it does not tell. */
const LOOK_AGAIN_MS = 4;

export class Outbox {
  #socket;
  #clock;
  #urgent = [];
  #frames = new Set();
  #departures = new Departures();
  #bytes = 0;
  #scheduled = false;

  constructor(socket, clock) {
    this.#socket = socket;
    this.#clock = clock;
  }

  /** Bytes that wait to be sent, here and in the transport. */
  get waiting() {
    return this.#bytes + this.#socket.bufferedAmount;
  }

  /** Add a frame; what it returns names the frame for `withdraw`. */
  add(name, values) {
    const { id, payload } = values;
    if (payload?.length > CHUNK_BYTES) {
      values = { ...values, size: payload.length, payload: this.#departures.split(TAGS[name], id, payload) };
    }
    const entry = { frame: encodeFrame(name, values), of: TAGS[name], id };
    this.#frames.add(entry);
    this.#bytes += entry.frame.length + (values.size ? payload.length - values.payload.length : 0);
    this.#schedule();
    return entry;
  }

  /** Add a frame that goes before all others. */
  addUrgent(name, values) {
    this.#urgent.push(encodeFrame(name, values));
    this.#schedule();
  }

  /**
   * Take back what was not given to the transport of a frame and its payload.
   *
   * @returns {"unsent" | "partly" | "sent"} what of it the other side may have: nothing, too little to begin, or all
   */
  withdraw(entry) {
    const isPartial = this.#departures.has(entry.of, entry.id);
    this.#bytes -= this.#departures.stop(entry.of, entry.id);
    if (this.#take(entry)) return "unsent";
    return isPartial ? "partly" : "sent";
  }

  /** Say goodbye: what waits is dropped, and `Bye` is given to the transport at once. */
  end(reason) {
    this.clear();
    this.#socket.send(encodeBatch(this.#clock(), [encodeFrame("Bye", { reason })]));
  }

  clear() {
    this.#urgent = [];
    this.#frames.clear();
    this.#departures = new Departures();
    this.#bytes = 0;
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => this.#write());
  }

  #write() {
    this.#scheduled = false;
    while (this.#hasData && this.#socket.bufferedAmount < TRANSPORT_BYTES) this.#message();
    if (!this.#hasData) return;
    this.#scheduled = true;
    setTimeout(() => this.#write(), LOOK_AGAIN_MS);
  }

  get #hasData() {
    return this.#urgent.length > 0 || this.#frames.size > 0 || !this.#departures.isEmpty;
  }

  #take(entry) {
    if (!this.#frames.delete(entry)) return false;
    this.#bytes -= entry.frame.length;
    return true;
  }

  #message() {
    const frames = this.#urgent.splice(0, MAX_FRAMES);
    let bytes = 0;
    const isFull = () => frames.length === MAX_FRAMES || bytes >= BATCH_BYTES;
    for (const entry of this.#frames) {
      if (isFull()) break;
      this.#take(entry);
      frames.push(entry.frame);
      bytes += entry.frame.length;
    }
    // Nothing is left before them: so each part comes behind the frame that announces it.
    while (!this.#departures.isEmpty && !this.#frames.size && !isFull()) {
      const chunk = this.#departures.next();
      this.#bytes -= chunk.data.length;
      bytes += chunk.data.length;
      frames.push(encodeFrame("Chunk", chunk));
    }
    this.#socket.send(encodeBatch(this.#clock(), frames));
  }
}
