// The errors of requests and of payloads.
// SPDX-License-Identifier: Apache-2.0

/** What a request, a connection or a payload failed with. */
export class HeadgateError extends Error {
  name = "HeadgateError";

  /**
   * @param {string} code one of the codes of docs/protocol.md, such as `timeout` or `handler_error`
   * @param {string} message for people
   * @param {object} [more]
   * @param {boolean | null} [more.started] did the handler begin to run; null if nobody knows
   * @param {object} [more.details] what the error carries beside that
   * @param {Promise<string>} [more.fate] of a request that timed out or was cancelled: resolves with the last word on its handler
   * @param {unknown} [more.cause] what led to it
   */
  constructor(code, message, { started = null, details = {}, fate, cause } = {}) {
    super(message || `The request failed: ${code}`, cause === undefined ? undefined : { cause });
    Object.assign(this, { code, started, details, fate });
  }
}

/** Throw what a value that cannot be sent or read fails with; `place` is where in the value. */
export function refusePayload(message, place) {
  throw new HeadgateError("payload", message, { started: false, details: place ? { place } : {} });
}

/** The peer broke a rule of the protocol: the session is closed. */
export class ProtocolError extends Error {
  name = "ProtocolError";
}
