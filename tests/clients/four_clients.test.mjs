// curl, a browser, Python and Node follow one view's stream side by side, and lose nothing when their connections break.
import assert from "node:assert/strict";
import { test } from "node:test";
import { EventSource } from "eventsource";
import { page, tab } from "./browser.mjs";
import { Feed, script, wal2json } from "./feed.mjs";
import { Line } from "./line.mjs";
import { json, Program, PYTHON, ROOT, serve } from "./program.mjs";
import { becomes, until } from "./until.mjs";

const NAMED = ["connected", "snapshot_end", "reset", "lagged", "error"];
const gauges = wal2json("gauges");
const gauge = (id, value) => ({ id, name: `gauge "${id}" – Pegel\nin m`, value });

/** Each begins to follow a stream, and gives a function that tells what has come: `{event, id, data}`, an empty `id` for none. */
const CLIENTS = {
  "curl -N": (t, url) => {
    const runs = [];
    let over = false;
    const seen = () => runs.flatMap((run) => events(run.out));
    const follow = () => {
      const last = seen().findLast(({ id }) => id)?.id;
      const from = last ? ["-H", `Last-Event-ID: ${last}`] : [];
      const run = new Program(t, "curl", ["-sSN", "--noproxy", "*", ...from, url]);
      runs.push(run);
      // curl follows once; the shell's loop around it is this.
      run.child.on("close", () => setTimeout(() => over || follow(), 100));
    };
    follow();
    t.after(() => {
      over = true;
      return runs.at(-1).stop();
    });
    return async () => seen();
  },
  "Python's httpx-sse": (t, url) => {
    const follower = new Program(t, PYTHON, [`${ROOT}tests/clients/follow.py`, url]);
    return async () => {
      if (!follower.isRunning) throw new Error(follower.err);
      return follower.out.split("\n").slice(0, -1).map((line) => JSON.parse(line));
    };
  },
  "Node's eventsource": (t, url) => {
    const seen = [];
    const source = new EventSource(url);
    t.after(() => source.close());
    for (const type of ["message", ...NAMED]) {
      source.addEventListener(type, (event) => {
        if (event.data !== undefined) seen.push({ event: event.type, id: event.lastEventId, data: event.data });
      });
    }
    return async () => seen;
  },
  "Chromium's EventSource": async (t, url, origin) => {
    const chromium = await tab(t);
    await chromium.goto(origin);
    await chromium.evaluate(
      ([url, types]) => {
        window.seen = [];
        const source = new EventSource(url);
        for (const type of types) {
          source.addEventListener(type, (event) => {
            if (event.data !== undefined) window.seen.push({ event: event.type, id: event.lastEventId, data: event.data });
          });
        }
      },
      [url, ["message", ...NAMED]],
    );
    return () => chromium.evaluate(() => window.seen);
  },
};

/** The events of a stream as the standard reads them, as far as they have ended. */
function events(text) {
  let last = "";
  return text.split("\n\n").slice(0, -1).flatMap((block) => {
    const read = { event: "message", data: [] };
    for (const line of block.split("\n")) {
      const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
      if (field === "data") read.data.push(value ?? "");
      if (field === "event") read.event = value;
      if (field === "id") last = value;
    }
    return read.data.length ? [{ event: read.event, id: last, data: read.data.join("\n") }] : [];
  });
}

/** The rows that a client has who takes every change as it says. */
function rows(seen) {
  const rows = new Map();
  for (const { event, data } of seen) {
    if (event === "reset") rows.clear();
    if (event !== "message") continue;
    const { op, before, after } = JSON.parse(data);
    const { id } = after ?? before;
    assert.equal(rows.has(id), op !== "added", `${op} of a row that is ${rows.has(id) ? "" : "not "}there: ${data}`);
    if (op === "deleted") rows.delete(id);
    else rows.set(id, after);
  }
  return [...rows.values()].sort((a, b) => a.id - b.id);
}

/** What has come with an id of its own: the changes, without the rows that were there before. */
const changes = (seen) => {
  const end = seen.findIndex(({ event }) => event === "snapshot_end");
  return seen.slice(end + 1).filter(({ event }) => event === "message").map(({ id, data }) => ({ id, data }));
};

test("four clients get every change once, in order and with its id, over breaks and a restart", async (t) => {
  const feed = await Feed.open(t);
  const origin = await page(t, "<!DOCTYPE html><title>a page of another origin</title>");
  const tables = script(
    `CREATE TABLE gauges (id INT PRIMARY KEY, name TEXT, value DECIMAL(10, 2))
     WITH (connector = 'sse', endpoint = '${feed.url}', format = 'wal2json', table = 'public.gauges');
     CREATE VIEW levels AS SELECT id, name, value FROM gauges WHERE value < 1000;`,
  );
  const arguments_ = ["--bind", "127.0.0.1:0", "--init", tables];
  const environment = { STREAMGAUGE_HTTP__CORS_ORIGINS: new URL(origin).origin };
  let server = await serve(t, arguments_, environment);
  const results = async () => (await json(`${server.url}/api/v1/queries/levels/results`)).data.results.sort((a, b) => a.id - b.id);
  const line = await Line.open(t, server.url);

  feed.send(gauges.insert(gauge(1, 1.5)), gauges.insert(gauge(2, 2.25)));
  await until("the rows that are there before", async () => (await results()).length === 2);
  // Heartbeats so often that some come between all events.
  const url = `${line.url}/v1/views/levels/stream?heartbeat=100ms`;
  const clients = {};
  for (const [name, follow] of Object.entries(CLIENTS)) clients[name] = await follow(t, url, origin);
  const all = async (what, holds) => {
    for (const [name, seen] of Object.entries(clients)) await until(`${what}, in ${name}`, async () => holds(await seen()));
  };
  const agree = async () => {
    for (const seen of Object.values(clients)) await becomes(await results(), async () => rows(await seen()));
  };
  await all("the end of the snapshot", (seen) => seen.some(({ event }) => event === "snapshot_end"));
  await agree();
  const beats = line.heartbeats;
  await until("heartbeats", () => line.heartbeats > beats + 8);

  feed.send(gauges.update(gauge(1, 3)), gauges.insert(gauge(3, 7.75)), gauges.delete(gauge(2)));
  await all("three changes", (seen) => changes(seen).length === 3);

  for (let round = 0; round < 3; round += 1) {
    line.cut();
    // The first is broken in its middle, the others come when nobody listens.
    feed.send(gauges.update(gauge(1, 10 + round)));
    await until("the break", () => line.clients === 0);
    feed.send(gauges.update(gauge(3, 2000)), gauges.update(gauge(3, 20 + round)), gauges.insert(gauge(10 + round, round)));
    await until("the row in the view", async () => (await results()).some(({ id }) => id === 10 + round));
    line.up();
    await all("the changes behind the break", (seen) => changes(seen).length >= 3 + 4 * (round + 1));
  }
  await agree();

  const told = (await json(`${server.url}/v1/views/levels/changes?after=earliest`)).events;
  const expected = told.map(({ id, data }) => ({ id, data: JSON.stringify(data) })).slice(-15);
  for (const [name, seen] of Object.entries(clients)) {
    const got = changes(await seen()).map(({ id, data }) => ({ id, data: JSON.stringify(JSON.parse(data)) }));
    assert.deepEqual(got, expected, name);
    assert.ok((await seen()).every(({ event }) => !["reset", "lagged", "error"].includes(event)), JSON.stringify(await seen()));
  }

  // A new server knows nothing of the old one's ids, and says so.
  assert.equal(await server.stop(), 0, server.err);
  server = await serve(t, arguments_, environment);
  line.target = new URL(server.url);
  feed.send(gauges.delete(gauge(11)));
  await until("the rows of the new server", async () => (await results()).length === 4);
  await all("a reset", (seen) => seen.some(({ event }) => event === "reset"));
  await agree();
  feed.send(gauges.update(gauge(12, 99.5)));
  await all("a change of the new server", (seen) => rows(seen).some(({ value }) => value === 99.5));
  await agree();
});
