// Lighthouse's word on the demo page, as a phone on a slow line sees it: 100 of 100 in each category. The scores go to
// target/lighthouse.json, the whole report beside it.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import * as launcher from "chrome-launcher";
import lighthouse from "lighthouse";
import { CHROMIUM, FLAGS } from "./browser.js";
import { startServer, TARGET } from "./server.js";

// The time that this machine takes goes into the first score, and other work on it does too: the best of so many counts there. A
// run in which Lighthouse itself came to grief (the page was not painted in its time, an audit broke) scores nothing, and is not
// the page's; when all of them do, the test fails with what it said.
const RUNS = 5;

let server;

before(async () => {
  server = await startServer();
});
after(() => server?.stop());

// One run in a browser of its own, so that what broke one has no part in the next. The mobile preset and simulated throttling are
// Lighthouse's defaults; named here since the scores mean nothing without.
async function run(url) {
  const chrome = await launcher.launch({ chromePath: CHROMIUM, chromeFlags: [...FLAGS, "--headless=new"] });
  try {
    return await lighthouse(url, {
      port: chrome.port,
      logLevel: "error",
      output: "html",
      formFactor: "mobile",
      throttlingMethod: "simulate",
      onlyCategories: ["performance", "accessibility", "best-practices", "seo"],
    });
  } finally {
    chrome.kill();
  }
}

const scoresOf = (result) => Object.fromEntries(Object.values(result.categories).map(({ id, score }) => [id, Math.round(score * 100)]));

// What Lighthouse could not do, or nothing. A category with an audit that broke has no score.
const grief = ({ runtimeError, audits, categories }) => [
  ...(runtimeError ? [`${runtimeError.code}: ${runtimeError.message}`] : []),
  ...Object.values(audits).filter(({ scoreDisplayMode }) => scoreDisplayMode === "error").map(({ id, errorMessage }) => `${id}: ${errorMessage}`),
  ...Object.values(categories).filter(({ score }) => score === null).map(({ id }) => `${id} has no score`),
];

// What kept a category from 100.
const lost = (result) => Object.values(result.categories).flatMap(({ id, auditRefs }) => auditRefs
  .filter(({ weight }) => weight > 0)
  .map(({ id: audit }) => result.audits[audit])
  .filter(({ score }) => score !== null && score < 0.9)
  .map(({ id: audit, title, displayValue, details }) => `${id}: ${audit}: ${title} ${displayValue ?? ""} ${JSON.stringify(details?.items ?? []).slice(0, 600)}`));

test("Lighthouse gives the demo page 100 in every category", { timeout: 240_000 }, async () => {
  let best = null;
  const broken = [];
  for (let count = 1; count <= RUNS; count += 1) {
    const { lhr, report } = await run(`${server.origin}/shoes/7`);
    const broke = grief(lhr);
    if (broke.length > 0) {
      broken.push(`run ${count}: ${broke.join("; ")}`);
      continue;
    }
    const scores = scoresOf(lhr);
    for (const category of ["accessibility", "best-practices", "seo"]) {
      assert.equal(scores[category], 100, lost(lhr).join("\n"));
    }
    if (best === null || scores.performance > best.scores.performance) {
      const metrics = ["first-contentful-paint", "largest-contentful-paint", "total-blocking-time", "cumulative-layout-shift", "speed-index"];
      best = {
        scores,
        metrics: Object.fromEntries(metrics.map((id) => [id, lhr.audits[id].displayValue])),
        lighthouse: lhr.lighthouseVersion,
        chromium: /Chrome\/(\S+)/.exec(lhr.environment.hostUserAgent)?.[1],
        lost: lost(lhr),
      };
      await writeFile(join(TARGET, "lighthouse.html"), report);
      await writeFile(join(TARGET, "lighthouse.json"), `${JSON.stringify(best, null, 2)}\n`);
    }
    if (scores.performance === 100) break;
  }
  if (broken.length > 0) console.log(broken.join("\n"));
  assert.ok(best, `Lighthouse never came to an end:\n${broken.join("\n")}`);
  console.log(JSON.stringify({ ...best, lost: undefined }));
  assert.equal(best.scores.performance, 100, best.lost.join("\n"));
});
