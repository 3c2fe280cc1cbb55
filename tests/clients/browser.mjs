// Headless Chromium, and the pages it is shown.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { chromium } from "playwright-core";
import { HUNG_MS } from "./until.mjs";
import { ROOT } from "./program.mjs";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A new tab. What its scripts throw is collected in `tab.thrown`. */
export async function tab(t) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  t.after(() => browser.close());
  const tab = await browser.newPage();
  tab.setDefaultTimeout(HUNG_MS);
  tab.thrown = [];
  tab.on("pageerror", (error) => tab.thrown.push(error.message));
  return tab;
}

/**
 * Pages to test with, by what they are: our own, which stands beside its settings in `fixtures/`, and where the documents are that the
 * project began with, the page in the one whose name begins with `number`, word for word.
 */
export function pages(example, number, title) {
  const own = readFileSync(`${ROOT}fixtures/${example}/index.html`, "utf8");
  const folder = `${ROOT}../shared/seeds/`;
  const name = existsSync(folder) ? readdirSync(folder).find((name) => name.startsWith(number)) : undefined;
  if (!name) return { "our own page": own };
  const blocks = readFileSync(folder + name, "utf8").matchAll(/^```html\n(.*?)^```$/gms);
  const page = [...blocks].map(([, block]) => block).find((block) => block.includes(`<title>${title}</title>`));
  if (!page) throw new Error(`${name} has no page '${title}'`);
  return { "our own page": own, "the documented page": page };
}
