// A connection that a test can break: everything goes through to the server, until it does not.
import { connect, createServer } from "node:net";
import { once } from "node:events";

export class Line {
  #clients = new Set();
  #isUp = true;
  /** How many have come through. */
  heartbeats = 0;

  /** A line to the address of a server; `target` may be another later. */
  static async open(t, target) {
    const line = new Line();
    line.target = new URL(target);
    const server = createServer((client) => line.#carry(client)).listen(0, "127.0.0.1");
    await once(server, "listening");
    line.url = `http://127.0.0.1:${server.address().port}`;
    t.after(() => {
      server.close();
      line.down();
    });
    return line;
  }

  get clients() {
    return this.#clients.size;
  }

  /** Breaks every connection in the middle of the next event that has an id, and lets nobody in. */
  cut() {
    this.#isUp = false;
  }

  /** Breaks what is left. */
  down() {
    this.#isUp = false;
    for (const client of this.#clients) client.destroy();
  }

  up() {
    this.#isUp = true;
  }

  #carry(client) {
    client.on("error", () => {});
    if (!this.#isUp) return client.destroy();
    const server = connect({ host: this.target.hostname, port: this.target.port });
    server.on("error", () => client.destroy());
    this.#clients.add(client);
    client.on("close", () => {
      this.#clients.delete(client);
      server.destroy();
    });
    server.on("close", () => client.destroy());
    client.on("data", (bytes) => server.write(bytes));
    server.on("data", (bytes) => {
      this.heartbeats += bytes.toString("latin1").split(": heartbeat\n").length - 1;
      const event = this.#isUp ? -1 : bytes.indexOf("id: ");
      if (event < 0) return client.write(bytes);
      client.write(bytes.subarray(0, event + 12), () => client.destroy());
    });
  }
}
