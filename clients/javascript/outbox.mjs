// What waits to be sent: the frames of one turn of the event loop leave in one message.
// SPDX-License-Identifier: Apache-2.0

import { encodeBatch, frameArray, MAX_FRAMES } from "./frames.mjs";

/** Payload bytes after which a message is closed and the next one begins. */
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

  /** Add a frame; what it returns names the frame for `remove`. */
  add(name, values) {
    const entry = { array: frameArray(name, values), bytes: values.payload?.length ?? 0 };
    this.#frames.add(entry);
    this.#bytes += entry.bytes;
    this.#schedule();
    return entry;
  }

  /** Add a frame that goes before all others. */
  addUrgent(name, values) {
    this.#urgent.push({ array: frameArray(name, values), bytes: 0 });
    this.#schedule();
  }

  /** Take a frame back; false if it was given to the transport. */
  remove(entry) {
    if (!this.#frames.delete(entry)) return false;
    this.#bytes -= entry.bytes;
    return true;
  }

  /** Give everything to the transport, whatever it holds. */
  flush() {
    while (this.#urgent.length || this.#frames.size) this.#message();
  }

  clear() {
    this.#urgent = [];
    this.#frames.clear();
    this.#bytes = 0;
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => this.#write());
  }

  #write() {
    this.#scheduled = false;
    while ((this.#urgent.length || this.#frames.size) && this.#socket.bufferedAmount < TRANSPORT_BYTES) this.#message();
    if (!this.#urgent.length && !this.#frames.size) return;
    this.#scheduled = true;
    setTimeout(() => this.#write(), LOOK_AGAIN_MS);
  }

  #message() {
    const batch = this.#urgent.splice(0, MAX_FRAMES);
    let bytes = 0;
    for (const entry of this.#frames) {
      if (batch.length === MAX_FRAMES || bytes >= BATCH_BYTES) break;
      this.remove(entry);
      batch.push(entry);
      bytes += entry.bytes;
    }
    this.#socket.send(encodeBatch(this.#clock(), batch.map((entry) => entry.array)));
  }
}
