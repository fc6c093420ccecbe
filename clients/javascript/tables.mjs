// Tables, and arrays of numbers: docs/protocol.md, "Datasets and arrays".
// SPDX-License-Identifier: Apache-2.0

import { refusePayload } from "./errors.mjs";
import { Float, Typed, uuid, uuidBytes } from "./types.mjs";

const isInteger = (value) => typeof value === "bigint" || Number.isSafeInteger(value);
const typed = (type) => ({
  is: (value) => value instanceof Typed && value.type === type,
  write: (value) => value.text,
  read: (cell) => (typeof cell === "string" ? new Typed(type, cell) : undefined),
});
const same = (is) => ({ is, write: (value) => value, read: (cell) => (is(cell) ? cell : undefined) });

/** By a column's type: whether a value is of it, the cell that it is sent as, and the value of a cell. */
const COLUMNS = {
  null: same(() => false),
  bool: same((value) => typeof value === "boolean"),
  int: same(isInteger),
  float: {
    is: (value) => typeof value === "number" || value instanceof Float,
    write: (value) => new Float(value),
    read: (cell) => (typeof cell === "number" || typeof cell === "bigint" ? Number(cell) : undefined),
  },
  str: same((value) => typeof value === "string"),
  bytes: same((value) => value instanceof Uint8Array),
  datetime: typed("datetime"),
  date: typed("date"),
  time: typed("time"),
  timedelta: {
    ...typed("timedelta"),
    write: (value) => BigInt(value.text),
    read: (cell) => (isInteger(cell) ? new Typed("timedelta", String(cell)) : undefined),
  },
  Decimal: typed("decimal"),
  UUID: {
    ...typed("uuid"),
    write: uuidBytes,
    read: (cell) => (cell instanceof Uint8Array ? uuid(cell) : undefined),
  },
};

/** A table: named columns of one type each, and rows. */
export class Dataset {
  /**
   * @param {string[]} columns their names, each once
   * @param {string[]} types their types: null, bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal or UUID
   * @param {unknown[][]} rows values, `null` for none
   */
  constructor(columns, types, rows = []) {
    checkHead(columns, types);
    rows.forEach((row, at) => checkRow(row, at, columns, types));
    Object.assign(this, { columns, types, rows });
  }

  /** The table of what its extension type holds. */
  static ofBody([columns, types, ...cells]) {
    checkHead(columns, types);
    if (cells.length !== columns.length || !cells.every((column) => Array.isArray(column))) refusePayload("A table has one array for each column");
    const length = cells[0]?.length ?? 0;
    if (cells.some((column) => column.length !== length)) refusePayload("The columns of a table differ in length");
    const values = cells.map((column, index) => column.map((cell) => value(cell, types[index])));
    return new Dataset(columns, types, Array.from({ length }, (_, row) => values.map((column) => column[row])));
  }

  toBody() {
    const cell = (value, index) => (value === null ? null : COLUMNS[this.types[index]].write(value));
    return [this.columns, this.types, ...this.columns.map((_, index) => this.rows.map((row) => cell(row[index], index)))];
  }
}

function checkHead(columns, types) {
  const texts = (list) => Array.isArray(list) && list.every((name) => typeof name === "string");
  if (!texts(columns) || !texts(types) || columns.length !== types.length) refusePayload("A table has a name and a type for each column");
  if (new Set(columns).size !== columns.length) refusePayload("A column of a table stands there twice");
  const unknown = types.find((type) => !Object.hasOwn(COLUMNS, type));
  if (unknown !== undefined) refusePayload(`${unknown} is no type of a column`);
}

function checkRow(row, at, columns, types) {
  if (row.length !== columns.length) refusePayload(`The row ${at} of a table has ${row.length} values, not ${columns.length}`);
  row.forEach((value, index) => {
    if (value !== null && !COLUMNS[types[index]].is(value)) refusePayload(`${columns[index]} in the row ${at} of a table is no ${types[index]}`);
  });
}

function value(cell, type) {
  if (cell === null) return null;
  return COLUMNS[type].read(cell) ?? refusePayload(`A cell of a table is no ${type}`);
}

const ELEMENT = /^(\|b1|[|<>]([iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,8}|[mM]8(\[([1-9]\d{0,8})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?))$/;
/** What an element is read as: its kind and bytes, without the order of bytes. */
const VIEWS = {
  i1: Int8Array, i2: Int16Array, i4: Int32Array, i8: BigInt64Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, u8: BigUint64Array,
  f4: Float32Array, f8: Float64Array, b1: Uint8Array, c8: Float32Array, c16: Float64Array, m8: BigInt64Array, M8: BigInt64Array,
};
const isLittle = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** Numbers of one type in any number of dimensions, as NumPy has them. */
export class NumberArray {
  /**
   * @param {string} element type of an element, such as `<f8`, `|b1` or `<M8[us]`
   * @param {number[]} shape length of each dimension
   * @param {Uint8Array} bytes the elements
   * @param {"C" | "F"} order which dimension runs fastest: the last or the first
   */
  constructor(element, shape, bytes, order = "C") {
    if (typeof element !== "string" || !ELEMENT.test(element)) refusePayload(`${element} is no type of an array's elements`);
    if (order !== "C" && order !== "F") refusePayload(`${order} is no order of an array's elements`);
    const isShape = Array.isArray(shape) && shape.length <= 64 && shape.every((length) => Number.isSafeInteger(length) && length >= 0);
    if (!isShape || !(bytes instanceof Uint8Array)) refusePayload("An array has the lengths of its dimensions, and bytes");
    Object.assign(this, { element, shape, bytes, order });
    if (shape.reduce((product, length) => product * length, this.#size) !== bytes.length) refusePayload(`${bytes.length} bytes are no array ${shape} of ${element}`);
    if (element === "|b1" && bytes.some((byte) => byte > 1)) refusePayload("An array of booleans holds others");
    if (element[1] === "U" && this.#characters().some((code) => code > 0x10ffff)) refusePayload("An array of text holds what is none");
  }

  /** An array of one dimension, or of a shape, of a typed array of the language. */
  static of(numbers, shape = [numbers.length]) {
    const [kind] = Object.entries(VIEWS).find(([, View]) => numbers instanceof View) ?? refusePayload(`A ${numbers.constructor.name} cannot be sent`);
    const mark = kind.endsWith("1") ? "|" : isLittle ? "<" : ">";
    return new NumberArray(mark + kind, shape, new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength).slice());
  }

  static ofBody([element, order, shape, bytes, ...more]) {
    if (more.length) refusePayload("An array is one of four parts");
    return new NumberArray(element, shape, bytes, order);
  }

  toBody() {
    return [this.element, this.order, this.shape, this.bytes];
  }

  /**
   * The elements in their order, as a typed array of the language: of complex numbers the real and the imaginary parts in turn, of times the count
   * of units. Undefined for text, bytes and floats of 2 bytes, which have none.
   */
  get numbers() {
    const View = VIEWS[/c16|../.exec(this.element.slice(1))[0]];
    return View && new View(this.#native(View.BYTES_PER_ELEMENT).buffer);
  }

  /** Bytes of one element. */
  get #size() {
    const [, kind, digits] = /^.(.)(\d+)/.exec(this.element);
    return kind === "U" ? 4 * Number(digits) : Number(digits);
  }

  #characters() {
    return new Uint32Array(this.#native(4).buffer);
  }

  /** A copy of the bytes in this machine's order. */
  #native(size) {
    const bytes = this.bytes.slice();
    const isSwapped = this.element[0] !== "|" && (this.element[0] === "<") !== isLittle;
    if (isSwapped) for (let at = 0; at < bytes.length; at += size) bytes.subarray(at, at + size).reverse();
    return bytes;
  }
}
