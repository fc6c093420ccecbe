// Values of types that JavaScript lacks.
// SPDX-License-Identifier: Apache-2.0

import { refusePayload } from "./errors.mjs";

/** A Python tuple: an array that stays one when it is sent back. */
export class Tuple extends Array {}

/** A Python frozenset. */
export class FrozenSet extends Set {}

/** A number that is sent as a float though it has no fraction: `new Float(1)` arrives as 1.0. */
export class Float extends Number {}

/** A value of a type that JavaScript lacks, as its text: `new Typed("decimal", "1.50")`. */
export class Typed {
  /**
   * @param {"datetime" | "date" | "time" | "timedelta" | "decimal" | "uuid"} type
   * @param {string} text as docs/protocol.md writes it; of a timedelta the microseconds
   */
  constructor(type, text) {
    if (!FORMS[type]?.test(text)) refusePayload(`${JSON.stringify(text)} is no ${type}`);
    Object.assign(this, { type, text });
  }

  toString() {
    return this.text;
  }

  toJSON() {
    return this.text;
  }

  /** The moment of a datetime with an offset; of others an invalid Date. */
  toDate() {
    const [moment] = this.text.split("[");
    return new Date(this.type === "datetime" && /[+-]\d\d:\d\d(:|$)/.test(moment) ? moment : NaN);
  }
}

const TIME = String.raw`\d\d:\d\d:\d\d(\.\d{1,6})?([+-]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?(\[[^\]=]+\])?(\[_fold=1\])?`;
const FORMS = {
  datetime: RegExp(String.raw`^\d{4}-\d\d-\d\dT${TIME}$`),
  date: /^\d{4}-\d\d-\d\d$/,
  time: RegExp(`^${TIME}$`),
  timedelta: /^-?\d+$/,
  decimal: /^[+-]?(\d+\.?\d*(E[+-]?\d+)?|\.\d+(E[+-]?\d+)?|Infinity|s?NaN\d*)$/i,
  uuid: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
};

/** A UUID of its 16 bytes. */
export function uuid(bytes) {
  if (bytes.length !== 16) refusePayload("A UUID has 16 bytes");
  return new Typed("uuid", toHex(bytes).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5"));
}

/** The 16 bytes of a UUID. */
export function uuidBytes(typed) {
  return fromHex(typed.text.replaceAll("-", ""));
}

/** @param {Uint8Array} bytes */
export function toHex(bytes) {
  let digits = "";
  for (const byte of bytes) digits += byte.toString(16).padStart(2, "0");
  return digits;
}

/** @param {string} digits */
export function fromHex(digits) {
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
