// A dashboard of metrics and alerts: what it shows is what the database's change feed says, change by change.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { open, page, pages, tab } from "./browser.mjs";
import { example, Feed, lines, wal2json } from "./feed.mjs";
import { json, replay, ROOT, serve } from "./program.mjs";
import { becomes, until } from "./until.mjs";

const CHANGES = "fixtures/dashboard/changes.ndjson";
/** What PostgreSQL and wal2json really wrote while somebody went through the tutorial; begins behind its first rows. */
const CAPTURE = "../shared/samples/wal2json_seed001.ndjson";
const PAGES = pages("dashboard", "001", "Drasi Real-time Dashboard");

const BEGIN = {
  metrics: {
    "active connections": "42 count",
    "cpu usage": "45.5 percent",
    "disk usage": "78.1 percent",
    "error rate": "0.5 percent",
    "memory usage": "62.3 percent",
    "network in": "125.4 mbps",
    "network out": "89.2 mbps",
    "request rate": "1250 req/min",
  },
  alerts: ["disk_usage warning Disk usage above 75%"],
  critical: {},
};

/** The transactions of the fixture after the first rows, one more, and what each changes on the page. */
const STEPS = [
  {
    metrics: { "cpu usage": "85.5 percent, warning" },
    critical: { "cpu usage": "85.5 percent" },
    log: ["added critical-metrics", "updated current-metrics"],
  },
  {
    metrics: { "disk usage": "95 percent, critical" },
    critical: { "cpu usage": "85.5 percent", "disk usage": "95 percent" },
    log: ["added critical-metrics", "updated current-metrics"],
  },
  {
    alerts: ["cpu_usage critical CPU usage exceeded 85%", "disk_usage warning Disk usage above 75%"],
    log: ["added active-alerts"],
  },
  { metrics: { "request rate": "2500 req/min" }, log: ["updated current-metrics"] },
  { alerts: ["cpu_usage critical CPU usage exceeded 85%"], log: ["deleted active-alerts"] },
  {
    metrics: { "error rate": "8.5 percent, critical" },
    critical: { "cpu usage": "85.5 percent", "disk usage": "95 percent", "error rate": "8.5 percent" },
    log: ["added critical-metrics", "updated current-metrics"],
  },
  {
    metrics: { "error rate": "0.5 percent" },
    critical: { "cpu usage": "85.5 percent", "disk usage": "95 percent" },
    log: ["deleted critical-metrics", "updated current-metrics"],
  },
  {
    change: wal2json("metrics").update(metric(1, "cpu_usage", 88)),
    metrics: { "cpu usage": "88 percent, warning" },
    critical: { "cpu usage": "88 percent", "disk usage": "95 percent" },
    log: ["updated critical-metrics", "updated current-metrics"],
  },
];

for (const [which, html] of Object.entries(PAGES)) {
  test(`${which} shows each change of the database as added, updated or deleted`, async (t) => {
    const [first, ...later] = transactions(lines(CHANGES));
    const feed = await Feed.open(t);
    feed.send(...first);
    await serve(t, example(t, "dashboard", feed));
    const dashboard = await open(t, html);
    let shown = BEGIN;
    await becomes(shown, () => read(dashboard));
    await until("Connected", async () => (await status(dashboard)) === "Connected");
    await until("the rows that are there, on the stream", async () => (await log(dashboard)).length === 9);

    let logged = 9;
    for (const { change, metrics, log: entries, ...others } of STEPS) {
      feed.send(...(change ? [change] : later.shift()));
      shown = { ...shown, ...others, metrics: { ...shown.metrics, ...metrics } };
      await becomes(shown, () => read(dashboard));
      await becomes(entries, async () => (await log(dashboard)).slice(0, -logged).sort());
      logged += entries.length;
    }
    assert.deepEqual(later, []);
    assert.deepEqual(dashboard.errors, []);
  });

  test(`${which} and its tables are equal after many changes`, async (t) => {
    const [first] = transactions(lines(CHANGES));
    const feed = await Feed.open(t);
    feed.send(...first);
    const server = await serve(t, example(t, "dashboard", feed));
    const dashboard = await open(t, html);
    await until("the rows that are there, on the stream", async () => (await log(dashboard)).length === 9);

    const { update } = wal2json("metrics");
    for (let round = 1; round <= 20; round += 1) {
      feed.send(update(metric(1, "cpu_usage", 41 + ((round * 37) % 50))));
      feed.send(update(metric(2, "memory_usage", 50.25 + ((round * 23) % 40))));
      feed.send(update(metric(7, "request_rate", 1000 + round, "req/min")));
    }
    const end = { "cpu usage": "81 percent", "memory usage": "70.25 percent", "request rate": "1020 req/min" };
    await becomes(
      {
        ...BEGIN,
        metrics: { ...BEGIN.metrics, ...end, "cpu usage": "81 percent, warning" },
        critical: { "cpu usage": "81 percent" },
      },
      () => read(dashboard),
    );
    const told = async (view) => {
      const { data } = await json(`${server.url}/api/v1/queries/${view}/results`);
      const rows = data.results.map(({ name, value, unit }) => [name.replaceAll("_", " "), `${value} ${unit}`]);
      return Object.fromEntries(rows);
    };
    assert.deepEqual(await told("current-metrics"), { ...BEGIN.metrics, ...end });
    assert.deepEqual(await told("critical-metrics"), { "cpu usage": "81 percent" });
    assert.equal((await log(dashboard)).length, 50);
    assert.deepEqual(dashboard.errors, []);
  });

  test(`${which} says when the server is away, and goes on when it is back`, async (t) => {
    const feed = await Feed.open(t);
    feed.send(...lines(CHANGES));
    const server = await serve(t, example(t, "dashboard", feed));
    const dashboard = await open(t, html);
    await until("Connected", async () => (await status(dashboard)) === "Connected");

    assert.equal(await server.stop(), 0, server.err);
    await until("Disconnected", async () => (await status(dashboard)) === "Disconnected");
    feed.send(wal2json("metrics").update(metric(6, "active_connections", 43, "count")));
    await serve(t, example(t, "dashboard", feed));
    await until("Connected", async () => (await status(dashboard)) === "Connected");
    await until("what has changed meanwhile", async () => (await read(dashboard)).metrics["active connections"] === "43 count");
    feed.send(wal2json("metrics").update(metric(6, "active_connections", 44, "count")));
    await until("what changes then", async () => (await read(dashboard)).metrics["active connections"] === "44 count");
    // To Chromium each attempt to reach a server that is away is an error of the page.
    assert.deepEqual(dashboard.errors.filter((error) => !error.includes("net::ERR_CONNECTION_")), []);
  });

  test(`${which} shows what a real database said`, { skip: !existsSync(ROOT + CAPTURE) && "it is not here" }, async (t) => {
    const [first] = transactions(lines(CHANGES));
    const feed = await Feed.open(t);
    feed.send(...first);
    await serve(t, example(t, "dashboard", feed));
    const dashboard = await open(t, html);
    await until("the rows that are there, on the stream", async () => (await log(dashboard)).length === 9);
    feed.send(...lines(CAPTURE));
    const { "network in": _, ...metrics } = BEGIN.metrics;
    await becomes(
      {
        metrics: {
          ...metrics,
          "cpu usage": "85.5 percent, warning",
          "disk usage": "95 percent, critical",
          "error rate": "8.5 percent, critical",
        },
        alerts: ["cpu_usage critical CPU usage exceeded 85%"],
        critical: { "cpu usage": "85.5 percent", "disk usage": "95 percent", "error rate": "8.5 percent" },
      },
      () => read(dashboard),
    );
    const all = (await log(dashboard)).slice(0, -9).reverse();
    const of = (view) => all.filter((entry) => entry.endsWith(view)).map((entry) => entry.split(" ")[0]);
    assert.deepEqual(of("current-metrics"), ["updated", "updated", "updated", "deleted"]);
    assert.deepEqual(of("active-alerts"), ["added", "deleted"]);
    assert.deepEqual(of("critical-metrics"), ["added", "added", "added"]);
    assert.deepEqual(dashboard.errors, []);
  });
}

test("the dashboard runs as its settings say", async (t) => {
  await replay(t, CHANGES, "--rate", "max");
  const server = await serve(t, ["--config", "fixtures/dashboard/server.toml", "--init", "fixtures/dashboard/tables.sql"]);
  const dashboard = await open(t, PAGES["our own page"]);
  const end = STEPS.slice(0, -1).reduce(
    (shown, { metrics, log, ...others }) => ({ ...shown, ...others, metrics: { ...shown.metrics, ...metrics } }),
    BEGIN,
  );
  await becomes(end, () => read(dashboard));
  const { success, data } = await json(`${server.url}/api/v1/reactions/dashboard-stream`);
  assert.ok(success && data.id === "dashboard-stream", JSON.stringify(data));
  assert.deepEqual(dashboard.errors, []);
});

test("a page of another origin reads nothing", async (t) => {
  const feed = await Feed.open(t);
  feed.send(...lines(CHANGES));
  await serve(t, example(t, "dashboard", feed));
  const stranger = await tab(t);
  await stranger.goto(await page(t, "<!DOCTYPE html><title>a page of another origin</title>"));
  const outcomes = await stranger.evaluate(async () => {
    const rows = fetch("http://localhost:8080/api/v1/queries/current-metrics/results").then(() => "read", () => "refused");
    const stream = new Promise((told) => {
      const source = new EventSource("http://localhost:8081/events");
      source.onopen = () => told("read");
      source.onerror = () => told("refused");
    });
    return [await rows, await stream];
  });
  assert.deepEqual(outcomes, ["refused", "refused"]);
});

/** What a page shows, in the order of the names. */
function read(dashboard) {
  return dashboard.evaluate(() => {
    const text = (element) => element.textContent.trim().replace(/\s+/g, " ");
    const all = (selector) => [...document.querySelectorAll(selector)];
    const rows = (box, kinds) =>
      all(`${box} .metric`).map((metric) => {
        const value = metric.querySelector(".metric-value");
        const kind = ["warning", "critical"].findLast((kind) => value.classList.contains(kind));
        return [text(metric.querySelector(".metric-name")), text(value) + (kinds && kind ? `, ${kind}` : "")];
      });
    return {
      metrics: Object.fromEntries(rows("#metrics", true).sort()),
      alerts: all("#alerts .alert").map((alert) => text(alert)).sort(),
      critical: Object.fromEntries(rows("#critical", false).sort()),
    };
  });
}

function status(dashboard) {
  return dashboard.textContent("#status");
}

/** The page's log, the latest first: `added current-metrics`. */
function log(dashboard) {
  return dashboard.evaluate(() =>
    [...document.querySelectorAll("#events .event")].map((event) => {
      const op = event.querySelector(".event-type");
      return `${op.textContent} ${event.textContent.match(/([a-z]+-[a-z]+): /)[1]}`;
    }),
  );
}

/** The lines of a change feed, by transaction. */
function transactions(changes) {
  const begins = changes.flatMap((change, at) => (JSON.parse(change).action === "B" ? [at] : []));
  return begins.map((begin, nth) => changes.slice(begin, begins[nth + 1]));
}

function metric(id, name, value, unit = "percent") {
  return { id, name, value, unit, updated_at: "2026-03-01 12:01:00.000000" };
}
