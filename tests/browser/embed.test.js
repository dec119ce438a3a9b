// The gallery in another site's page: only where the server allows it, as tall as it is, and nothing but the gallery.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { assertAccessible, launch, screenshot, until, withPage } from "./browser.js";
import { startServer } from "./server.js";

let shop;
let shopOrigin;
let browser;

// Another origin: it says in each page which frame it wants, and sets its height as it is told.
const page = (source) => `<!doctype html><html lang="en"><head><title>A shop</title><link rel="icon" href="data:,"></head>
<body style="background: #cde"><h1>A shop</h1><iframe title="Shoe" width="600" height="100" src="${source}"></iframe>
<script>
  addEventListener("message", ({ data, origin, source }) => {
    const frame = document.querySelector("iframe");
    if (source !== frame.contentWindow || data?.type !== "canvas-cluster:size") return;
    frame.height = data.height;
    document.body.dataset.told = data.height;
    document.body.dataset.by = origin;
  });
</script></body></html>`;

before(async () => {
  shop = createServer((request, answer) => {
    answer.setHeader("Content-Type", "text/html");
    answer.end(page(new URL(request.url, "http://shop").searchParams.get("frame")));
  });
  shop.listen(0, "127.0.0.1");
  await once(shop, "listening");
  shopOrigin = `http://127.0.0.1:${shop.address().port}`;
  browser = await launch();
});
after(async () => {
  await browser?.close();
  shop?.close();
});

const framing = (source) => `${shopOrigin}/?frame=${encodeURIComponent(source)}`;

test("a page that is allowed to shows the gallery in a frame of its height", async () => {
  const server = await startServer({ args: ["--frame-ancestors", shopOrigin] });
  try {
    await withPage(browser, {}, async (page) => {
      await page.goto(framing(`${server.origin}/shoes/7?embed=1`), { waitUntil: "load" });
      await until(() => page.evaluate(() => Number(document.body.dataset.told) > 300), "a height");
      assert.equal(await page.evaluate(() => document.body.dataset.by), server.origin);
      const frame = page.frames().find((frame) => frame.url().startsWith(server.origin));
      assert.ok(await frame.locator("#picture-1 img").isVisible());
      assert.equal(await frame.locator("header, footer").count(), 0);
      assert.ok(await frame.evaluate(() => document.documentElement.scrollHeight <= innerHeight + 1), "the frame needs no scroll bar");
      assert.equal(await frame.evaluate(() => getComputedStyle(document.documentElement).backgroundColor), "rgba(0, 0, 0, 0)");
      await frame.locator("[data-next]").click();
      await until(async () => /^Picture 2 of 9/.test(await frame.locator("[data-status]").textContent()), "the second picture");
      await screenshot(page, "embedded");
    });
    await withPage(browser, { viewport: { width: 600, height: 700 } }, async (page) => {
      await page.goto(`${server.origin}/shoes/7?embed=1`, { waitUntil: "load" });
      await assertAccessible(page, "embedded");
    });
  } finally {
    await server.stop();
  }
});

test("a page of another site may not, as long as nobody has said so", async () => {
  const server = await startServer();
  try {
    await withPage(browser, { allow: [/frame-ancestors/, /ERR_BLOCKED_BY_RESPONSE/] }, async (page) => {
      const refused = page.waitForEvent("console", (message) => message.text().includes("frame-ancestors"));
      await page.goto(framing(`${server.origin}/shoes/7?embed=1`), { waitUntil: "load" });
      await refused;
      assert.equal(await page.evaluate(() => document.body.dataset.told), undefined);
    });
  } finally {
    await server.stop();
  }
});
