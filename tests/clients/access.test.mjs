// A page of another origin on a server that asks who comes: a token opens what it may, a ticket one stream once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { page, tab } from "./browser.mjs";
import { Feed, script, wal2json } from "./feed.mjs";
import { Line } from "./line.mjs";
import { json, serve } from "./program.mjs";
import { becomes, until } from "./until.mjs";

const TOKEN = "a token for tests only";
const gauges = wal2json("gauges");
const gauge = (id, value) => ({ id, value });

test("a page follows a stream with tickets, a new one after each break, and misses nothing", async (t) => {
  const feed = await Feed.open(t);
  feed.send(gauges.insert(gauge(1, 1)));
  const origin = await page(t, "<!DOCTYPE html><title>a page of another origin</title>");
  const tables = script(
    t,
    `CREATE TABLE gauges (id INT PRIMARY KEY, value INT)
     WITH (connector = 'sse', endpoint = '${feed.url}', format = 'wal2json', table = 'public.gauges');
     CREATE VIEW levels AS SELECT id, value FROM gauges;`,
  );
  const environment = { STREAMGAUGE_TOKEN: TOKEN, STREAMGAUGE_HTTP__CORS_ORIGINS: new URL(origin).origin };
  const server = await serve(t, ["--bind", "127.0.0.1:0", "--init", tables], environment);
  const line = await Line.open(t, server.url);
  await assert.rejects(json(`${server.url}/v1/views/levels/results`), /401/);

  const chromium = await tab(t);
  await chromium.goto(origin);
  await chromium.evaluate(
    ([server, stream, token]) => {
      window.values = [];
      window.refused = 0;
      window.follow = async (last) => {
        const response = await fetch(`${server}/v1/tickets`, {
          method: "POST",
          headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
          body: JSON.stringify({ views: ["levels"] }),
        });
        const { ticket } = await response.json();
        const query = new URLSearchParams({ ticket, ...(last && { last_event_id: last }) });
        const source = new EventSource(`${stream}/v1/views/levels/stream?${query}`);
        source.addEventListener("snapshot_end", (event) => (last = event.lastEventId));
        source.onmessage = (event) => {
          window.values.push(JSON.parse(event.data).after.value);
          last = event.lastEventId || last;
        };
        // The browser comes back by itself with the ticket that it has used, and gives up when it is refused.
        source.onerror = () => {
          if (source.readyState !== EventSource.CLOSED) return;
          window.refused += 1;
          window.follow(last);
        };
      };
      return window.follow();
    },
    [server.url, line.url, TOKEN],
  );
  const values = () => chromium.evaluate(() => window.values);
  await becomes([1], values);
  feed.send(gauges.update(gauge(1, 2)));
  await becomes([1, 2], values);

  line.cut();
  feed.send(gauges.update(gauge(1, 3)));
  await until("the break", () => line.clients === 0);
  feed.send(gauges.update(gauge(1, 4)));
  line.up();
  await becomes([1, 2, 3, 4], values);
  assert.equal(await chromium.evaluate(() => window.refused), 1);
  assert.deepEqual(chromium.errors.filter((error) => !/status of 401|net::ERR_/.test(error)), []);
});
