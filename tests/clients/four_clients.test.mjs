// curl, a browser, Python and Node follow the same streams side by side, and lose nothing when their connections break.
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

/** What they follow, and the views in it. */
const STREAMS = {
  "/v1/views/levels/stream": ["levels"],
  "/v1/streams?view=levels&view=floods": ["levels", "floods"],
};

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
    if (event === "reset") {
      const { view } = JSON.parse(data);
      for (const [key, row] of rows) if (row.view === view) rows.delete(key);
    }
    if (event !== "message") continue;
    const { op, query, before, after } = JSON.parse(data);
    const key = `${query} ${(after ?? before).id}`;
    assert.equal(rows.has(key), op !== "added", `${op} of a row that is ${rows.has(key) ? "" : "not "}there: ${data}`);
    if (op === "deleted") rows.delete(key);
    else rows.set(key, { view: query, ...after });
  }
  return sorted([...rows.values()]);
}

function sorted(rows) {
  return rows.sort((a, b) => a.view.localeCompare(b.view) || a.id - b.id);
}

/** The changes since the first snapshot. */
function changes(seen) {
  const end = seen.findIndex(({ event }) => event === "snapshot_end");
  return seen.slice(end + 1).filter(({ event }) => event === "message");
}

test("four clients get every change once, in order and with its id, over breaks and a restart", async (t) => {
  const feed = await Feed.open(t);
  const origin = await page(t, "<!DOCTYPE html><title>a page of another origin</title>");
  const tables = script(
    t,
    `CREATE TABLE gauges (id INT PRIMARY KEY, name TEXT, value DECIMAL(10, 2))
     WITH (connector = 'sse', endpoint = '${feed.url}', format = 'wal2json', table = 'public.gauges');
     CREATE VIEW levels AS SELECT id, name, value FROM gauges WHERE value < 1000;
     CREATE VIEW floods AS SELECT id, name, value FROM gauges WHERE value >= 1000;`,
  );
  const arguments_ = ["--bind", "127.0.0.1:0", "--init", tables];
  const environment = { STREAMGAUGE_HTTP__CORS_ORIGINS: new URL(origin).origin };
  let server = await serve(t, arguments_, environment);
  const line = await Line.open(t, server.url);
  const results = async (views) => {
    const answers = views.map(async (view) => {
      const { data } = await json(`${server.url}/api/v1/queries/${view}/results`);
      return data.results.map((row) => ({ view, ...row }));
    });
    return sorted((await Promise.all(answers)).flat());
  };

  feed.send(gauges.insert(gauge(1, 1.5)), gauges.insert(gauge(2, 2.25)));
  await until("the rows that are there before", async () => (await results(["levels"])).length === 2);
  const followers = [];
  for (const [path, views] of Object.entries(STREAMS)) {
    const url = new URL(path, line.url);
    // Heartbeats so often that some come between all events.
    url.searchParams.set("heartbeat", "100ms");
    for (const [client, follow] of Object.entries(CLIENTS)) {
      followers.push({ name: `${client} at ${path}`, views, seen: await follow(t, url.href, origin) });
    }
  }
  const all = async (what, holds) => {
    for (const { name, views, seen } of followers) {
      await until(async () => `${what} for ${name}: ${JSON.stringify(await seen())}`, async () => holds(await seen(), views));
    }
  };
  const agree = async () => {
    for (const { views, seen } of followers) await becomes(await results(views), async () => rows(await seen()));
  };
  await all("the end of the snapshot", (seen) => seen.some(({ event }) => event === "snapshot_end"));
  await agree();
  const beats = line.heartbeats;
  await until("heartbeats", () => line.heartbeats > beats + 2 * followers.length);

  feed.send(gauges.update(gauge(1, 3)), gauges.insert(gauge(3, 7.75)), gauges.delete(gauge(2)));
  await all("three changes", (seen) => changes(seen).length === 3);

  for (let round = 1; round <= 3; round += 1) {
    line.cut();
    // The first is broken in its middle, the others come when nobody listens.
    feed.send(gauges.update(gauge(1, 10 + round)));
    await until("the break", () => line.clients === 0);
    feed.send(gauges.update(gauge(3, 2000)), gauges.update(gauge(3, 20 + round)), gauges.insert(gauge(10 + round, round)));
    await until("the row in the view", async () => (await results(["levels"])).some(({ id }) => id === 10 + round));
    line.up();
    // Two more where the flood is seen.
    await all("the changes behind the break", (seen, views) => changes(seen).length >= 3 + (2 + 2 * views.length) * round);
  }
  await agree();

  for (const view of ["levels", "floods"]) {
    const { events: told } = await json(`${server.url}/v1/views/${view}/changes?after=earliest`);
    for (const { name, views, seen } of followers.filter(({ views }) => views.includes(view))) {
      const got = changes(await seen()).map(({ id, data }) => ({ id, data: JSON.parse(data) })).filter(({ data }) => data.query === view);
      const expected = told.slice(-got.length);
      assert.deepEqual(got.map(({ data }) => data), expected.map(({ data }) => data), name);
      // Where there are several views, an id tells of each.
      if (views.length === 1) assert.deepEqual(got.map(({ id }) => id), expected.map(({ id }) => id), name);
    }
  }
  for (const { name, views, seen } of followers) {
    const all = await seen();
    assert.equal(new Set(changes(all).map(({ id }) => id)).size, 3 + 3 * (2 + 2 * views.length), name);
    assert.deepEqual(all.filter(({ event }) => ["reset", "lagged", "error"].includes(event)), [], name);
  }

  // A new server knows nothing of the old one's ids, and says so.
  assert.equal(await server.stop(), 0, server.err);
  server = await serve(t, arguments_, environment);
  line.target = new URL(server.url);
  feed.send(gauges.delete(gauge(12)));
  await until("the rows of the new server", async () => (await results(["levels"])).length === 4);
  await all("a reset", (seen, views) => seen.filter(({ event }) => event === "reset").length === views.length);
  await agree();
  feed.send(gauges.update(gauge(13, 99.5)));
  await all("a change of the new server", (seen) => rows(seen).some(({ value }) => value === 99.5));
  await agree();
});
