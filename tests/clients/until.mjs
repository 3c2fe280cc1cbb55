// Waiting for something to be so, and for no other time.
import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";

/** The longest that anything may take: only what hangs takes so long. */
export const HUNG_MS = 30_000;

/** Waits until `find` gives something true, and gives it back. `what` is what the test has waited for in vain. */
export async function until(what, find) {
  const end = Date.now() + HUNG_MS;
  for (;;) {
    const found = await find();
    if (found) return found;
    if (Date.now() > end) throw new Error(`in vain: ${typeof what === "function" ? await what() : what}`);
    await new Promise((resume) => setTimeout(resume, 20));
  }
}

/** Waits until `read` gives what is expected. */
export async function becomes(expected, read) {
  let last;
  const isSo = async () => isDeepStrictEqual((last = await read()), expected);
  await until(() => assert.deepEqual(last, expected), isSo);
}
