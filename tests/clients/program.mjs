// Programs that a test starts: the server, and clients. They end with the test.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { HUNG_MS, until } from "./until.mjs";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const PYTHON = `${ROOT}target/clients/venv/bin/python`;
const PROGRAM = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? "target", "debug/streamgauge");

/** The environment without settings of the server and without proxies: all traffic stays on this machine. */
const ENVIRONMENT = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^STREAMGAUGE_|_proxy$/i.test(name)),
);

/** A child of the test; what it has said so far is in `out` and `err`. */
export class Program {
  out = "";
  err = "";

  constructor(t, command, args, environment = {}) {
    this.child = spawn(command, args, { cwd: ROOT, env: { ...ENVIRONMENT, ...environment }, stdio: ["ignore", "pipe", "pipe"] });
    this.child.stdout.setEncoding("utf8").on("data", (text) => (this.out += text));
    this.child.stderr.setEncoding("utf8").on("data", (text) => (this.err += text));
    this.ended = once(this.child, "close");
    this.ended.catch((error) => (this.err += error));
    t.after(() => this.stop());
  }

  get isRunning() {
    return this.child.pid !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Asks it to end, and waits until it has; gives the exit code. */
  async stop() {
    if (this.isRunning) this.child.kill("SIGTERM");
    const hung = setTimeout(() => this.child.kill("SIGKILL"), HUNG_MS);
    await this.ended.catch(() => {});
    clearTimeout(hung);
    return this.child.exitCode;
  }
}

/** `streamgauge serve …`, once it answers. */
export async function serve(t, args, environment) {
  const server = await started(t, ["serve", ...args], environment, "Ctrl-C stops");
  server.url = /listens on (http:\/\/\S+)/.exec(server.err)[1];
  return server;
}

/** `streamgauge replay …`, once it can be read. */
export function replay(t, ...args) {
  return started(t, ["replay", ...args], {}, "http://");
}

/** Our program, once it has said that it is ready. */
async function started(t, args, environment, ready) {
  const program = new Program(t, PROGRAM, args, environment);
  await until(
    () => `streamgauge ${args[0]} starts: ${program.err}`,
    () => {
      if (!program.isRunning) throw new Error(`streamgauge ${args[0]} has ended: ${program.err}`);
      return program.err.includes(ready);
    },
  );
  return program;
}

export async function json(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return response.json();
}
