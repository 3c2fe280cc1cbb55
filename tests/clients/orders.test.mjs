// A page of orders and alerts, each view on a path of its own: what it shows is what the change feed says, change by change.
import assert from "node:assert/strict";
import { test } from "node:test";
import { open, pages } from "./browser.mjs";
import { example, Feed, lines } from "./feed.mjs";
import { replay, serve } from "./program.mjs";
import { becomes } from "./until.mjs";

const CHANGES = "fixtures/orders/changes.ndjson";
const PAGES = pages("orders", "000", "Order Dashboard");

const INES = "1 Ines Brook $42.5";
const TOM = "2 Tom Weir $310";
const ADA = "3 Ada Lock $89.95";
const NOOR = "4 Noor Mill $1899.9";
const LARGE_4 = "High value order: #4 - $1899.9";
const LARGE_1 = "High value order: #1 - $1042.5";

/** What the page shows after each change of the fixture. */
const STEPS = [
  { orders: [`${INES} pending`], alerts: [] },
  // Shipped orders are in no view.
  { orders: [`${INES} pending`], alerts: [] },
  { orders: [`${INES} pending`, `${ADA} processing`], alerts: [] },
  { orders: [`${INES} pending`, `${ADA} processing`, `${NOOR} pending`], alerts: [LARGE_4] },
  { orders: [`${INES} processing`, `${ADA} processing`, `${NOOR} pending`], alerts: [LARGE_4] },
  { orders: [`${INES} processing`, `${NOOR} pending`], alerts: [LARGE_4] },
  { orders: [`${INES} processing`, `${TOM} processing`, `${NOOR} pending`], alerts: [LARGE_4] },
  { orders: ["1 Ines Brook $1042.5 processing", `${TOM} processing`, `${NOOR} pending`], alerts: [LARGE_1, LARGE_4] },
  { orders: ["1 Ines Brook $1042.5 processing", `${TOM} processing`, `${NOOR} processing`], alerts: [LARGE_1, LARGE_4] },
  // An alert stays when its order has gone.
  { orders: ["1 Ines Brook $1042.5 processing", `${TOM} processing`], alerts: [LARGE_1, LARGE_4] },
];

for (const [which, html] of Object.entries(PAGES)) {
  test(`${which} shows orders that come, change, leave and return`, async (t) => {
    const changes = lines(CHANGES);
    const feed = await Feed.open(t);
    await serve(t, example(t, "orders", feed));
    const shop = await open(t, html);
    for (const [nth, change] of changes.entries()) {
      feed.send(change);
      await becomes(STEPS[nth], () => read(shop));
    }
    assert.deepEqual(shop.errors, []);
  });

  test(`${which} begins with the orders there are`, async (t) => {
    const feed = await Feed.open(t);
    feed.send(...lines(CHANGES).slice(0, 9));
    await serve(t, example(t, "orders", feed));
    const shop = await open(t, html);
    await becomes(STEPS[8], async () => {
      const { orders, alerts } = await read(shop);
      return { orders, alerts: alerts.sort() };
    });
    assert.deepEqual(shop.errors, []);
  });
}

test("the orders run as their settings say", async (t) => {
  await replay(t, CHANGES, "--rate", "max");
  await serve(t, ["--config", "fixtures/orders/server.toml", "--init", "fixtures/orders/tables.sql"]);
  const shop = await open(t, PAGES["our own page"]);
  const { orders } = STEPS.at(-1);
  await becomes(orders, async () => (await read(shop)).orders);
  assert.deepEqual(shop.errors, []);
});

/** What the page shows: orders by number, alerts from the latest. */
function read(shop) {
  return shop.evaluate(() => {
    const cells = (row) => [...row.cells].map((cell) => cell.textContent.trim()).join(" ");
    return {
      orders: [...document.querySelectorAll("#orders tbody tr")].map(cells).sort(),
      alerts: [...document.querySelectorAll("#alerts li")].map((alert) => alert.textContent),
    };
  });
}
