// A canvas-cluster of the tests' own: the real program with its demo catalogue, on a free port, in a private folder.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const REPOSITORY = resolve(import.meta.dirname ?? new URL(".", import.meta.url).pathname, "../..");
const PATIENCE_MS = 30_000;

export const TARGET = process.env.CARGO_TARGET_DIR ?? join(REPOSITORY, "target");
const BINARY = process.env.CANVAS_TESTED_BINARY ?? join(TARGET, "debug/canvas-cluster");

// Starts a server with these arguments more, and comes back when it serves. `token` makes writes need one.
export async function startServer({ args = [], token } = {}) {
  const folder = await mkdtemp(join(tmpdir(), "canvas-browser-"));
  const more = [...args];
  if (token) {
    const file = join(folder, "token");
    await writeFile(file, token, { mode: 0o600 });
    more.push("--write-token-file", file);
  }
  const child = spawn(BINARY, ["--listen", "127.0.0.1:0", "--workers", "2", ...more], {
    cwd: folder,
    env: {
      PATH: process.env.PATH,
      HOME: folder,
      XDG_DATA_HOME: join(folder, "data"),
      XDG_RUNTIME_DIR: join(folder, "run"),
      CANVAS_TUNE_HOST: "false",
    },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const log = [];
  const ready = new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`not ready in time:\n${log.join("\n")}`)), PATIENCE_MS);
    child.once("error", reject);
    child.once("exit", (code, signal) => reject(new Error(`it ended (${code ?? signal}):\n${log.join("\n")}`)));
    createInterface({ input: child.stderr }).on("line", (line) => {
      log.push(line);
      const found = /ready: .* on (http:\/\/\S+)/.exec(line);
      if (!found) return;
      clearTimeout(late);
      resolve(found[1]);
    });
  });
  const origin = await ready;
  return {
    origin,
    // Ends it, and expects an orderly end and a clean log. The folder of one that failed stays.
    async stop() {
      const ended = once(child, "exit");
      const late = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
      child.kill("SIGTERM");
      const [code, signal] = await ended;
      clearTimeout(late);
      const said = log.join("\n");
      assert.equal(code ?? signal, 0, said);
      assert.doesNotMatch(said, /panicked|\bERROR\b/, said);
      await rm(folder, { recursive: true });
    },
  };
}
