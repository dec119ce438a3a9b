// Chromium, and pages that fail a test when anything goes wrong in them that nobody looks at: errors of scripts, errors in the
// console, what the content security policy refuses, requests that fail.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { TARGET } from "./server.js";

export const CHROMIUM = process.env.CANVAS_CHROMIUM ?? "/usr/bin/chromium";
// Nothing here leaves the machine; the sandbox needs privileges that a container's root lacks.
export const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required",
];
const PATIENCE_MS = 10_000;

export function launch() {
  return chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
}

// Opens a page in a context of its own, hands it to `act`, and then looks at what went wrong meanwhile. `allow` are the
// console's words that the test is about.
export async function withPage(browser, { allow = [], ...options }, act) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const wrong = [];
  const note = (text) => {
    if (!allow.some((known) => known.test(text))) wrong.push(text);
  };
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && note(`${message.type()}: ${message.text()} (${message.location().url})`));
  page.on("pageerror", (error) => note(`script: ${error.stack}`));
  page.on("requestfailed", (request) => {
    // A film that is no longer wanted, and a lazy picture of a page that was left, are broken off.
    const { errorText } = request.failure();
    if (errorText !== "net::ERR_ABORTED") note(`${request.url()}: ${errorText}`);
  });
  try {
    await act(page, context);
  } finally {
    await context.close();
  }
  assert.deepEqual(wrong, []);
}

// Waits until something holds, for what no event tells.
export async function until(holds, what) {
  const give_up = Date.now() + PATIENCE_MS;
  for (;;) {
    if (await holds()) return;
    assert.ok(Date.now() < give_up, `in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

const axeSource = readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// Runs every rule of axe-core, best practices included.
export async function assertAccessible(page, name) {
  await page.evaluate(await axeSource);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.map(({ id, help, nodes }) => `${id}: ${help}\n  ${nodes.map(({ html, failureSummary }) => `${html}\n    ${failureSummary}`).join("\n  ")}`);
  assert.equal(told.length, 0, `${name}:\n${told.join("\n")}`);
  assert.ok(passes.length > 10, `${name}: hardly anything was looked at`);
}

export async function assertNoSidewaysScroll(page, name) {
  const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(content <= window, `${name}: ${content} wide in a window of ${window}`);
}

// For a person to look at: target/screenshots/NAME.png.
export async function screenshot(page, name) {
  const folder = join(TARGET, "screenshots");
  await mkdir(folder, { recursive: true });
  await page.evaluate(async () => {
    await document.fonts.ready;
    // Lazy pictures that are in sight would come a moment too late.
    const inSight = [...document.images].filter((image) => image.getBoundingClientRect().top < innerHeight && image.offsetParent !== null);
    for (const image of inSight) image.loading = "eager";
    await Promise.all(inSight.map((image) => image.decode().catch(() => {})));
  });
  // Two cores that are busy with other work paint slowly.
  await page.screenshot({ path: join(folder, `${name}.png`), timeout: 3 * PATIENCE_MS });
}
