// The frames of the channel, as docs/protocol.md lists them: MessagePack arrays of a tag and fields by position.
// SPDX-License-Identifier: Apache-2.0

import { HeadgateError, ProtocolError } from "./errors.mjs";
import { Decoder, Encoder } from "./payload.mjs";

const GREETINGS = `
32 Hello versions:ints features:strings method:str nonce:bin project:str="" host_name:str="" kind:str="client" software:str="" extensions:map={}
33 Challenge nonce:bin proof:bin extensions:map={}
34 Proof proof:bin extensions:map={}
35 Welcome version:int features:strings session:str gateway:str user:str in_flight:int unsent:int max_message:int extensions:map={}
36 Refuse code:str message:str extensions:map={}`;

const FRAMES = `
1 Call id:id project:str handler:str payload:bin deadline:float priority:int=0 flags:int=0 key:str|nil=null ancestors:strings=[] trace:bin|nil=null size:int=0 extensions:map={}
2 Cast id:id project:str handler:str payload:bin deadline:float scope:str filters:texts={} ancestors:strings=[] size:int=0 extensions:map={}
3 Cancel id:id extensions:map={}
4 Started ids:ids extensions:map={}
5 Progress id:id payload:bin size:int=0 extensions:map={}
6 Result id:id payload:bin size:int=0 extensions:map={}
7 Fault id:id code:str message:str started:bool|nil details:map={} extensions:map={}
8 Fate id:id fate:str extensions:map={}
9 Chunk of:int id:id data:bin extensions:map={}
10 Item id:id parts:bins partial:bool=false extensions:map={}
11 Grant id:id total:int extensions:map={}
16 Ping extensions:map={}
17 Pong sent:float extensions:map={}
18 Bye reason:str="" extensions:map={}`;

/** Frames that one message may hold. */
export const MAX_FRAMES = 16384;

const isInt = (value) => typeof value === "bigint" || Number.isInteger(value);
const isMap = (value) => typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
const every = (check) => (value) => Array.isArray(value) && value.every(check);
const isId = (value) => Number.isInteger(value) && value > 0 && value < 2 ** 48;
const isBytes = (value) => value instanceof Uint8Array;
const isString = (value) => typeof value === "string";
const TYPES = {
  id: isId,
  ids: (value) => every(isId)(value) && value.length <= MAX_FRAMES,
  int: isInt,
  ints: every(isInt),
  float: (value) => typeof value === "number" || typeof value === "bigint",
  str: isString,
  strings: every(isString),
  bin: isBytes,
  bins: (value) => every(isBytes)(value) && value.length <= MAX_FRAMES,
  bool: (value) => typeof value === "boolean",
  nil: (value) => value === null,
  map: isMap,
  texts: (value) => isMap(value) && Object.values(value).every(isString),
};

function parse(table) {
  return table.trim().split("\n").map((line) => {
    const [tag, name, ...fields] = line.split(" ");
    return { tag: Number(tag), name, fields: fields.map(field) };
  });
}

function field(text) {
  const [, name, types, standard] = /^(\w+):([\w|]+)(?:=(.*))?$/.exec(text);
  const standing = standard === undefined ? undefined : Object.freeze(JSON.parse(standard));
  return { name, types: types.split("|").map((type) => TYPES[type]), standard: standing };
}

const greetings = parse(GREETINGS);
const frames = parse(FRAMES);
const byTag = (table) => new Map(table.map((frame) => [frame.tag, frame]));
const GREETINGS_BY_TAG = byTag(greetings);
const FRAMES_BY_TAG = byTag(frames);
const BY_NAME = new Map([...greetings, ...frames].map((frame) => [frame.name, frame]));

/**
 * A frame as the array that is sent, without the defaults at its end.
 *
 * @param {string} name such as `Call`
 * @param {object} values fields by name
 * @returns {unknown[]}
 */
function frameArray(name, values) {
  const { tag, fields } = BY_NAME.get(name);
  const array = [tag, ...fields.map((field) => values[field.name] ?? field.standard ?? null)];
  while (array.length > 1 && fields[array.length - 2].standard === array.at(-1)) array.pop();
  return array;
}

/** Encode a frame; a message of the login is one by itself. */
export function encodeFrame(name, values) {
  return new Encoder().encode(frameArray(name, values));
}

/** Encode a batch: the sender's clock and encoded frames. */
export function encodeBatch(sent, encoded) {
  // An array of two: the clock, and an array of 16-bit length.
  const message = new Uint8Array(encoded.reduce((length, frame) => length + frame.length, 13));
  const view = new DataView(message.buffer);
  message[0] = 0x92;
  message[1] = 0xcb;
  view.setFloat64(2, sent);
  message[10] = 0xdc;
  view.setUint16(11, encoded.length);
  let at = 13;
  for (const frame of encoded) {
    message.set(frame, at);
    at += frame.length;
  }
  return message;
}

/**
 * Decode a message of the login.
 *
 * @param {Uint8Array} bytes
 * @returns {object} the fields, and the frame's name as `frame`
 * @throws {ProtocolError}
 */
export function decodeGreeting(bytes) {
  if (bytes.length > 4096) throw new ProtocolError(`a message of the login has ${bytes.length} bytes`);
  return decodeFrame(values(bytes), GREETINGS_BY_TAG);
}

/**
 * Decode a message of an open session.
 *
 * @param {Uint8Array} bytes
 * @returns {{sent: number, frames: object[]}} each frame's fields, and its name as `frame`
 * @throws {ProtocolError} it is no batch of known frames
 */
export function decodeBatch(bytes) {
  const batch = values(bytes);
  if (!Array.isArray(batch) || batch.length !== 2) throw new ProtocolError("a message is no batch");
  const [sent, arrays] = batch;
  if (!TYPES.float(sent) || !Number.isFinite(Number(sent))) throw new ProtocolError("the clock of a batch is no finite number");
  if (!Array.isArray(arrays) || arrays.length > MAX_FRAMES) throw new ProtocolError(`a batch has no list of up to ${MAX_FRAMES} frames`);
  return { sent: Number(sent), frames: arrays.map((array) => decodeFrame(array, FRAMES_BY_TAG)) };
}

function values(bytes) {
  try {
    // Extension types may stand under keys that nobody here knows: they are kept as they are.
    return new Decoder(bytes, (code, bytes) => ({ code, bytes })).whole(0);
  } catch (error) {
    throw error instanceof HeadgateError ? new ProtocolError(error.message) : error;
  }
}

function decodeFrame(array, table) {
  const known = Array.isArray(array) && table.get(array[0]);
  if (!known) throw new ProtocolError(`no frame of this protocol: tag ${Array.isArray(array) ? array[0] : "missing"}`);
  const frame = { frame: known.name };
  known.fields.forEach(({ name, types, standard }, index) => {
    const missing = index + 1 >= array.length;
    if (missing && standard === undefined) throw new ProtocolError(`a ${known.name} has no ${name}`);
    const value = missing ? standard : array[index + 1];
    if (!types.some((check) => check(value))) throw new ProtocolError(`the ${name} of a ${known.name} is of another type`);
    frame[name] = types[0] === TYPES.float ? Number(value) : value;
  });
  return frame;
}
