// The conformance vectors, in Node: node --test clients/javascript/test/
// SPDX-License-Identifier: Apache-2.0

import { readFileSync } from "node:fs";
import { test } from "node:test";

import { cases } from "./conformance.mjs";

const folder = new URL("../../../tests/protocol/vectors/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(`${name}.json`, folder), "utf8"));
const files = Object.fromEntries(["payloads", "frames", "proofs", "sessions"].map((name) => [name, read(name)]));

for (const [name, run] of cases(files)) test(name, run);
