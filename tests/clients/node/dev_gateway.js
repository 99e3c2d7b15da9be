// `corelane dev` as a child process: started, read for its one line of JSON, stopped by SIGTERM.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const READY_WITHIN_MS = 30_000;
const STOP_WITHIN_MS = 30_000;

/** Runs `body` with the fields of the JSON line; the gateway must then end with 0. `variables` are
 * added to its environment; if it is `quiet`, its demo service pushes nothing. */
export async function withDevGateway(binary, shards, body, { variables = {}, quiet = false } = {}) {
  const folder = await mkdtemp(join(tmpdir(), "corelane-dev-"));
  const options = ["--json", "--port", "0", "--shards", String(shards), "--dir", folder];
  if (quiet) options.push("--quiet");
  const env = { ...process.env, ...variables };
  const child = spawn(binary, ["dev", ...options], { env, stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  // Also when this process ends by an error that nobody has caught.
  const orphaned = () => child.kill("SIGKILL");
  process.once("exit", orphaned);
  try {
    const ready = JSON.parse(await firstLine(child, ended));
    assert.equal(ready.tokens.length, 4, "dev mints four tokens");
    assert.equal(ready.accounts.length, 4, "each of an account of its own");
    assert.equal(ready.shards, shards);
    assert.equal(ready.pid, child.pid);
    await body(ready);
    child.kill("SIGTERM");
    const [status] = await within(STOP_WITHIN_MS, "the gateway to stop", ended);
    assert.equal(status, 0, `after SIGTERM the gateway ended with ${status}`);
  } finally {
    process.off("exit", orphaned);
    if (child.exitCode === null) child.kill("SIGKILL");
    await rm(folder, { recursive: true, force: true });
  }
}

async function firstLine(child, ended) {
  const lines = createInterface({ input: child.stdout });
  const gone = ended.then(() => {
    throw new Error("the gateway ended before it was ready");
  });
  gone.catch(() => {}); // it does end, later
  const [line] = await within(READY_WITHIN_MS, "the gateway", Promise.race([once(lines, "line"), gone]));
  return line;
}

/** `promise`, or an error naming `what` once `ms` have passed. */
export async function within(ms, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
