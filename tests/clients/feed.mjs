// A change feed that says what the test tells it, when the test tells it; and the server of an example that reads it.
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./program.mjs";

/** Serves events to every client, from the first or from where it left off. */
export class Feed {
  #events = [];
  #clients = new Set();

  static async open(t, port = 0) {
    const feed = new Feed();
    feed.url = await listen(t, port, (request, response) => {
      const last = Number(request.headers["last-event-id"] ?? 0);
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(feed.#events.slice(last).join("") || ": no events yet\n\n");
      feed.#clients.add(response);
      response.on("close", () => feed.#clients.delete(response));
    });
    return feed;
  }

  /** Sends events: texts as they are, others as JSON. */
  send(...data) {
    for (const one of data) {
      const text = typeof one === "string" ? one : JSON.stringify(one);
      const event = `id: ${this.#events.length + 1}\ndata: ${text}\n\n`;
      this.#events.push(event);
      for (const client of this.#clients) client.write(event);
    }
  }
}

/** Changes of the rows of a database's table in wal2json's words (format-version 2). */
export function wal2json(table) {
  const columns = (row) => Object.entries(row).map(([name, value]) => ({ name, value }));
  const change = (action, fields) => ({ action, schema: "public", table, ...fields });
  const identity = ({ id }) => columns({ id });
  return {
    insert: (row) => change("I", { columns: columns(row) }),
    update: (row) => change("U", { columns: columns(row), identity: identity(row) }),
    delete: (row) => change("D", { identity: identity(row) }),
  };
}

/** The lines of a file, by its path from the project's folder. */
export function lines(file) {
  return readFileSync(ROOT + file, "utf8").trim().split("\n");
}

/** A script in a file of its own, until the test ends; gives the file's path. */
export function script(t, text) {
  const folder = mkdtempSync(join(tmpdir(), "streamgauge-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "tables.sql");
  writeFileSync(path, text);
  return path;
}

/** The server of an example in `fixtures/`, whose tables read `feed` instead of a replay on its port: what `serve` is to be told. */
export function example(t, name, feed) {
  const tables = readFileSync(`${ROOT}fixtures/${name}/tables.sql`, "utf8");
  const path = script(t, tables.replaceAll("http://127.0.0.1:8090/", feed.url));
  return ["--config", `fixtures/${name}/server.toml`, "--init", path];
}

/** Listens on a port of 127.0.0.1 until the test ends; gives the address. */
export async function listen(t, port, answer) {
  const server = createServer(answer);
  server.listen(port, "127.0.0.1");
  await once(server, "listening").catch((error) => {
    throw new Error(`127.0.0.1:${port}, which the test needs, is taken: ${error.message}`);
  });
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${server.address().port}/`;
}
