// Headless Chromium, and the pages it is shown.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { after } from "node:test";
import { chromium } from "playwright-core";
import { listen } from "./feed.mjs";
import { ROOT } from "./program.mjs";
import { HUNG_MS, until } from "./until.mjs";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--no-proxy-server",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** One for all tests of a file. */
let browser;
after(async () => (await browser)?.close());

/** A tab of a browser that knows nothing yet. What its scripts throw, and what the console calls an error, is collected in `tab.errors`. */
export async function tab(t) {
  browser ??= chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
  const context = await (await browser).newContext();
  t.after(() => context.close());
  const tab = await context.newPage();
  tab.setDefaultTimeout(HUNG_MS);
  tab.errors = [];
  tab.on("pageerror", (error) => tab.errors.push(error.message));
  tab.on("console", (message) => message.type() === "error" && tab.errors.push(message.text()));
  return tab;
}

/** Serves one page, which has no icon; gives its address. */
export function page(t, html, port = 0) {
  return listen(t, port, (request, response) => {
    const found = request.url === "/";
    response.writeHead(found ? 200 : 204, { "content-type": "text/html; charset=utf-8" });
    response.end(found ? html : "");
  });
}

/**
 * A tab that shows a page from http://localhost:3000, the origin that the examples let in. The page has got the rows that it asks for beside
 * its stream: if a change overtook them, it would show what was before the change.
 */
export async function open(t, html) {
  await page(t, html, 3000);
  const opened = await tab(t);
  await opened.goto("http://localhost:3000/");
  const isFetch = ({ initiatorType }) => initiatorType === "fetch";
  await until("the rows that the page asks for", async () => {
    const got = await opened.evaluate(`performance.getEntriesByType("resource").filter(${isFetch}).length`);
    return got >= html.split("fetch(").length - 1;
  });
  return opened;
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
