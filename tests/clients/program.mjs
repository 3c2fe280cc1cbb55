// Programs that a test starts: the server, and clients. They end with the test.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { HUNG_MS, until } from "./until.mjs";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const PYTHON = `${ROOT}target/clients/venv/bin/python`;
export const PROGRAM = process.env.STREAMGAUGE_PROGRAM ?? `${ROOT}target/debug/streamgauge`;

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
  const server = new Program(t, PROGRAM, ["serve", ...args], environment);
  await until(
    () => `the server starts: ${server.err}`,
    () => {
      if (!server.isRunning) throw new Error(`the server has ended: ${server.err}`);
      return server.err.includes("Ctrl-C stops");
    },
  );
  server.url = /listens on (http:\/\/\S+)/.exec(server.err)[1];
  return server;
}

export async function json(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return response.json();
}
