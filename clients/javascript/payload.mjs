// MessagePack, and the extension types of Headgate's payloads: docs/protocol.md, "Payloads".
// SPDX-License-Identifier: Apache-2.0

import { refusePayload } from "./errors.mjs";
import { Dataset, NumberArray } from "./tables.mjs";
import { Float, fromHex, FrozenSet, toHex, Tuple, Typed, uuid, uuidBytes } from "./types.mjs";

/** What a payload has at most. */
export const MAX_BYTES = 64 * 2 ** 20;
export const MAX_DEPTH = 64;

const TEXTS = { 6: "datetime", 7: "date", 8: "time", 9: "timedelta", 10: "decimal" };
const LONE_SURROGATE = /\p{Surrogate}/u;
const utf8 = new TextEncoder();
// ignoreBOM: a byte order mark is a character like any other, and stays.
const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Encode a value as a payload.
 *
 * @param {unknown} value
 * @returns {Uint8Array}
 * @throws {HeadgateError} `payload`: a value that cannot be sent, or too many bytes or levels
 */
export function encode(value) {
  return new Encoder().encode(value);
}

/**
 * Decode a payload.
 *
 * @param {Uint8Array} bytes
 * @returns {unknown}
 * @throws {HeadgateError} `payload`: malformed, an unknown extension type, or beyond a limit
 */
export function decode(bytes) {
  if (bytes.length > MAX_BYTES) refusePayload(`The payload has ${bytes.length} bytes, ${MAX_BYTES} are allowed`);
  return new Decoder(bytes, extension).whole(0);
}

/** Writes one value. */
export class Encoder {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;
  #path = [];

  constructor(depth = 0) {
    this.depth = depth;
  }

  encode(value) {
    this.#value(value, this.depth);
    if (this.#length > MAX_BYTES) refusePayload(`The payload has ${this.#length} bytes, ${MAX_BYTES} are allowed`);
    return this.#bytes.subarray(0, this.#length);
  }

  #value(value, depth) {
    if (value === null || value === undefined) return this.#byte(0xc0);
    switch (typeof value) {
      case "boolean":
        return this.#byte(value ? 0xc3 : 0xc2);
      case "number":
        return Number.isSafeInteger(value) && !Object.is(value, -0) ? this.#integer(value) : this.#float(value);
      case "bigint":
        return this.#bigint(value);
      case "string":
        return LONE_SURROGATE.test(value) ? this.#extension(2, wtf8(value)) : this.#string(value);
      case "object":
        return this.#object(value, depth);
    }
    refusePayload(`A ${typeof value} cannot be sent`, this.#place());
  }

  #object(value, depth) {
    if (value instanceof Float) return this.#float(Number(value));
    if (value instanceof Typed) return this.#typed(value);
    if (value instanceof Date) return this.#date(value);
    if (value instanceof Uint8Array) return this.#binary(value);
    if (value instanceof ArrayBuffer) return this.#binary(new Uint8Array(value));
    if (ArrayBuffer.isView(value)) return this.#object(NumberArray.of(value), depth);
    if (depth >= MAX_DEPTH) refusePayload(`More than ${MAX_DEPTH} levels`, this.#place());
    if (value instanceof Dataset) return this.#extension(12, new Encoder(depth).encode(value.toBody()));
    if (value instanceof NumberArray) return this.#extension(13, new Encoder(depth).encode(value.toBody()));
    if (value instanceof Tuple) return this.#members(3, value, depth);
    if (Array.isArray(value)) return this.#array(value, depth + 1);
    if (value instanceof Set) return this.#members(value instanceof FrozenSet ? 5 : 4, [...value], depth);
    if (value instanceof Map) return this.#map([...value], depth + 1);
    const kind = Object.getPrototypeOf(value);
    // The prototype of a plain object of another realm, such as a frame, has none above it either.
    if (kind === null || Object.getPrototypeOf(kind) === null) return this.#map(Object.entries(value), depth + 1);
    refusePayload(`A ${kind.constructor?.name ?? "value"} cannot be sent`, this.#place());
  }

  #place() {
    return `payload${this.#path.map((key) => `[${typeof key === "string" ? `'${key}'` : String(key)}]`).join("")}`;
  }

  #inside(key, value, depth) {
    this.#path.push(key);
    this.#value(value, depth);
    this.#path.pop();
  }

  #array(values, depth) {
    this.#head(values.length, 0x90, 15, 0, 0xdc, 0xdd);
    for (let i = 0; i < values.length; i++) this.#inside(i, values[i], depth);
  }

  #map(entries, depth) {
    this.#head(entries.length, 0x80, 15, 0, 0xde, 0xdf);
    for (const [key, value] of entries) {
      this.#inside(key, key, depth);
      this.#inside(key, value, depth);
    }
  }

  #members(code, values, depth) {
    this.#extension(code, new Encoder(depth).encode([...values]));
  }

  #integer(value) {
    if (value >= 0) {
      if (value < 0x80) this.#byte(value);
      else if (value <= 0xff) this.#put(0xcc, 1, "setUint8", value);
      else if (value <= 0xffff) this.#put(0xcd, 2, "setUint16", value);
      else if (value <= 0xffffffff) this.#put(0xce, 4, "setUint32", value);
      else this.#put(0xcf, 8, "setBigUint64", BigInt(value));
    } else if (value >= -32) this.#byte(value & 0xff);
    else if (value >= -0x80) this.#put(0xd0, 1, "setInt8", value);
    else if (value >= -0x8000) this.#put(0xd1, 2, "setInt16", value);
    else if (value >= -0x80000000) this.#put(0xd2, 4, "setInt32", value);
    else this.#put(0xd3, 8, "setBigInt64", BigInt(value));
  }

  #bigint(value) {
    if (Number.isSafeInteger(Number(value))) this.#integer(Number(value));
    else if (value >= 0n && value < 1n << 64n) this.#put(0xcf, 8, "setBigUint64", value);
    else if (value < 0n && value >= -(1n << 63n)) this.#put(0xd3, 8, "setBigInt64", value);
    else this.#extension(1, twosComplement(value));
  }

  #float(value) {
    this.#put(0xcb, 8, "setFloat64", value);
  }

  #string(value) {
    const bytes = utf8.encode(value);
    this.#head(bytes.length, 0xa0, 31, 0xd9, 0xda, 0xdb);
    this.#append(bytes);
  }

  #binary(bytes) {
    this.#head(bytes.length, 0, -1, 0xc4, 0xc5, 0xc6);
    this.#append(bytes);
  }

  #typed(value) {
    const { type, text } = value;
    if (type === "uuid") return this.#extension(11, uuidBytes(value));
    const [code] = Object.entries(TEXTS).find(([, name]) => name === type);
    this.#extension(Number(code), utf8.encode(text));
  }

  #date(value) {
    if (Number.isNaN(value.getTime())) refusePayload("An invalid Date cannot be sent", this.#place());
    const iso = value.toISOString();
    if (iso.length !== 24) refusePayload("A Date beyond the years 0 to 9999 cannot be sent", this.#place());
    this.#extension(6, utf8.encode(iso.replace("Z", "000+00:00")));
  }

  #extension(code, bytes) {
    const fixed = { 1: 0xd4, 2: 0xd5, 4: 0xd6, 8: 0xd7, 16: 0xd8 }[bytes.length];
    if (fixed) this.#byte(fixed);
    else this.#head(bytes.length, 0, -1, 0xc7, 0xc8, 0xc9);
    this.#byte(code);
    this.#append(bytes);
  }

  /** The head of what has a length: its own byte up to `small`, else 8 (if there is one), 16 or 32 bits. */
  #head(length, fixed, small, head8, head16, head32) {
    if (length <= small) this.#byte(fixed | length);
    else if (head8 && length <= 0xff) this.#put(head8, 1, "setUint8", length);
    else if (length <= 0xffff) this.#put(head16, 2, "setUint16", length);
    else this.#put(head32, 4, "setUint32", length);
  }

  #put(head, size, setter, value) {
    this.#room(size + 1);
    this.#bytes[this.#length] = head;
    this.#view[setter](this.#length + 1, value);
    this.#length += size + 1;
  }

  #byte(value) {
    this.#room(1);
    this.#bytes[this.#length++] = value;
  }

  #append(bytes) {
    this.#room(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  #room(size) {
    if (this.#length + size <= this.#bytes.length) return;
    const more = new Uint8Array(Math.max(2 * this.#bytes.length, this.#length + size));
    more.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = more;
    this.#view = new DataView(more.buffer);
  }
}

/** Reads one value; `extension(code, bytes, depth)` gives what stands in an extension type. */
export class Decoder {
  #bytes;
  #view;
  #at = 0;
  #extension;

  constructor(bytes, extension) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#extension = extension;
  }

  /** The value, which must be all that there is. */
  whole(depth) {
    const value = this.#value(depth);
    if (this.#at !== this.#bytes.length) refusePayload("There are bytes after the value");
    return value;
  }

  #value(depth) {
    const head = this.#number(1, "getUint8");
    if (head < 0x80) return head;
    if (head < 0x90) return this.#map(head & 15, depth);
    if (head < 0xa0) return this.#array(head & 15, depth);
    if (head < 0xc0) return this.#string(head & 31);
    if (head >= 0xe0) return head - 256;
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.#take(this.#number(1, "getUint8")).slice();
      case 0xc5: return this.#take(this.#number(2, "getUint16")).slice();
      case 0xc6: return this.#take(this.#number(4, "getUint32")).slice();
      case 0xc7: return this.#extended(this.#number(1, "getUint8"), depth);
      case 0xc8: return this.#extended(this.#number(2, "getUint16"), depth);
      case 0xc9: return this.#extended(this.#number(4, "getUint32"), depth);
      case 0xca: return this.#number(4, "getFloat32");
      case 0xcb: return this.#number(8, "getFloat64");
      case 0xcc: return this.#number(1, "getUint8");
      case 0xcd: return this.#number(2, "getUint16");
      case 0xce: return this.#number(4, "getUint32");
      case 0xcf: return narrow(this.#number(8, "getBigUint64"));
      case 0xd0: return this.#number(1, "getInt8");
      case 0xd1: return this.#number(2, "getInt16");
      case 0xd2: return this.#number(4, "getInt32");
      case 0xd3: return narrow(this.#number(8, "getBigInt64"));
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8:
        return this.#extended(1 << (head - 0xd4), depth);
      case 0xd9: return this.#string(this.#number(1, "getUint8"));
      case 0xda: return this.#string(this.#number(2, "getUint16"));
      case 0xdb: return this.#string(this.#number(4, "getUint32"));
      case 0xdc: return this.#array(this.#number(2, "getUint16"), depth);
      case 0xdd: return this.#array(this.#number(4, "getUint32"), depth);
      case 0xde: return this.#map(this.#number(2, "getUint16"), depth);
      case 0xdf: return this.#map(this.#number(4, "getUint32"), depth);
    }
    refusePayload("The byte 0xc1 is not used in MessagePack");
  }

  #number(size, getter) {
    this.#check(size);
    const value = this.#view[getter](this.#at);
    this.#at += size;
    return value;
  }

  #take(size) {
    this.#check(size);
    this.#at += size;
    return this.#bytes.subarray(this.#at - size, this.#at);
  }

  #check(size) {
    if (this.#at + size > this.#bytes.length) refusePayload("The payload ends in the middle of a value");
  }

  #string(size) {
    return utf8Text(this.#take(size));
  }

  /** Each member has a byte at least: a claimed length is refused before anything is made for it. */
  #enter(members, depth) {
    if (depth >= MAX_DEPTH) refusePayload(`More than ${MAX_DEPTH} levels`);
    this.#check(members);
  }

  #array(size, depth) {
    this.#enter(size, depth);
    const values = [];
    for (let i = 0; i < size; i++) values.push(this.#value(depth + 1));
    return values;
  }

  #map(size, depth) {
    this.#enter(2 * size, depth);
    const entries = [];
    let plain = true;
    for (let i = 0; i < size; i++) {
      const key = this.#value(depth + 1);
      entries.push([key, this.#value(depth + 1)]);
      plain &&= typeof key === "string";
    }
    // fromEntries defines properties: a key `__proto__` is one like others.
    return plain ? Object.fromEntries(entries) : new Map(entries);
  }

  #extended(size, depth) {
    const code = this.#number(1, "getInt8");
    return this.#extension(code, this.#take(size), depth);
  }
}

function extension(code, bytes, depth) {
  switch (code) {
    case 1: return narrow(fromTwosComplement(bytes));
    case 2: return fromWtf8(bytes);
    case 3: return Tuple.from(body(bytes, depth));
    case 4: return new Set(body(bytes, depth));
    case 5: return new FrozenSet(body(bytes, depth));
    case 11: return uuid(bytes);
    case 12: return Dataset.ofBody(body(bytes, depth));
    case 13: return NumberArray.ofBody(body(bytes, depth));
    case -1: return timestamp(bytes);
  }
  if (code in TEXTS) return new Typed(TEXTS[code], utf8Text(bytes));
  return refusePayload(`The extension type ${code} is unknown`);
}

/** The one array that stands in an extension type. */
function body(bytes, depth) {
  const values = new Decoder(bytes, extension).whole(depth);
  return Array.isArray(values) && !(values instanceof Tuple) ? values : refusePayload("An extension type must hold an array");
}

function narrow(value) {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function utf8Text(bytes) {
  try {
    return text.decode(bytes);
  } catch {
    return refusePayload("A text is not UTF-8");
  }
}

/** UTF-8 in which lone surrogates have three bytes of their own. */
function wtf8(value) {
  const bytes = [];
  for (const character of value) {
    const code = character.codePointAt(0);
    if (code < 0xd800 || code > 0xdfff) bytes.push(...utf8.encode(character));
    else bytes.push(0xed, 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
  }
  return Uint8Array.from(bytes);
}

function fromWtf8(bytes) {
  let value = "";
  let start = 0;
  for (let i = 0; i + 2 < bytes.length; i++) {
    // No other character of UTF-8 begins with 0xed and goes on with more than 0x9f.
    if (bytes[i] !== 0xed || bytes[i + 1] < 0xa0 || bytes[i + 1] > 0xbf || bytes[i + 2] >> 6 !== 2) continue;
    value += utf8Text(bytes.subarray(start, i));
    value += String.fromCharCode(0xd000 | ((bytes[i + 1] & 63) << 6) | (bytes[i + 2] & 63));
    start = i + 3;
    i += 2;
  }
  return value + utf8Text(bytes.subarray(start));
}

function twosComplement(value) {
  const bits = (value < 0n ? -value - 1n : value).toString(2).length + 1;
  const size = Math.ceil(bits / 8);
  return fromHex(BigInt.asUintN(8 * size, value).toString(16).padStart(2 * size, "0"));
}

function fromTwosComplement(bytes) {
  return bytes.length ? BigInt.asIntN(8 * bytes.length, BigInt(`0x${toHex(bytes)}`)) : 0n;
}

function timestamp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let seconds, nanoseconds = 0;
  if (bytes.length === 4) seconds = view.getUint32(0);
  else if (bytes.length === 8) {
    nanoseconds = view.getUint32(0) >>> 2;
    seconds = (view.getUint32(0) & 3) * 2 ** 32 + view.getUint32(4);
  } else if (bytes.length === 12) {
    nanoseconds = view.getUint32(0);
    seconds = Number(view.getBigInt64(4));
  } else refusePayload("A timestamp has 4, 8 or 12 bytes");
  if (nanoseconds > 999_999_999) refusePayload("A timestamp has more than 999999999 nanoseconds");
  const moment = new Date(seconds * 1000);
  if (!(moment.getUTCFullYear() >= 1 && moment.getUTCFullYear() <= 9999)) refusePayload("A timestamp is beyond the years 1 to 9999");
  const micros = String(Math.floor(nanoseconds / 1000)).padStart(6, "0");
  return new Typed("datetime", `${moment.toISOString().slice(0, 19)}${Number(micros) ? `.${micros}` : ""}+00:00`);
}
