// Waiting for something to be so, and for no other time.

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
