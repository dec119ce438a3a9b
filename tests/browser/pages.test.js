// Every page in every window: that it fits, that everyone can use it, and what it looks like (target/screenshots).

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible, assertNoSidewaysScroll, launch, screenshot, withPage } from "./browser.js";
import { startServer } from "./server.js";

let server;
let browser;

before(async () => {
  server = await startServer();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const NOT_FOUND = [/status of 40[04]/];
const PAGES = {
  gallery: { path: "/shoes/7", status: 200 },
  unknown: { path: "/shoes/100000", status: 404, allow: NOT_FOUND },
  "no-number": { path: "/shoes/seven", status: 400, allow: NOT_FOUND },
  front: { path: "/", status: 200 },
  editor: { path: "/admin", status: 200 },
};
const WINDOWS = {
  320: { viewport: { width: 320, height: 640 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 },
  768: { viewport: { width: 768, height: 1024 } },
  1440: { viewport: { width: 1440, height: 900 } },
};

for (const [name, { path, status, allow }] of Object.entries(PAGES)) {
  for (const colorScheme of ["light", "dark"]) {
    test(`${name}, ${colorScheme}: it fits, and axe finds nothing`, async () => {
      for (const [width, window] of Object.entries(WINDOWS)) {
        await withPage(browser, { ...window, colorScheme, allow }, async (page) => {
          const answer = await page.goto(server.origin + path, { waitUntil: "load" });
          assert.equal(answer.status(), status);
          assert.match(answer.headers()["content-security-policy"], /default-src 'none'/);
          await assertNoSidewaysScroll(page, `${name} at ${width}`);
          await screenshot(page, `${name}-${width}-${colorScheme}`);
          await assertAccessible(page, `${name} at ${width}, ${colorScheme}`);
        });
      }
    });
  }

  test(`${name}, from right to left: it fits in 320 pixels`, () => withPage(browser, { ...WINDOWS[320], allow }, async (page) => {
    await page.addInitScript(() => document.addEventListener("readystatechange", () => { document.documentElement.dir = "rtl"; }));
    await page.goto(server.origin + path, { waitUntil: "load" });
    await assertNoSidewaysScroll(page, name);
    await screenshot(page, `${name}-320-rtl`);
  }));
}

test("with larger text the gallery still fits", () => withPage(browser, WINDOWS[320], async (page) => {
  await page.goto(`${server.origin}/shoes/7`, { waitUntil: "load" });
  await page.evaluate(() => { document.documentElement.style.fontSize = "200%"; });
  await assertNoSidewaysScroll(page, "200 %");
  await screenshot(page, "gallery-320-200-percent");
}));

test("with forced colours the page is still usable", () => withPage(browser, { ...WINDOWS[1440], forcedColors: "active" }, async (page) => {
  await page.goto(`${server.origin}/shoes/7`, { waitUntil: "load" });
  await screenshot(page, "gallery-1440-forced-colours");
  await assertAccessible(page, "forced colours");
}));

test("on paper only pictures and facts are left", () => withPage(browser, WINDOWS[768], async (page) => {
  await page.goto(`${server.origin}/shoes/7`, { waitUntil: "load" });
  await page.emulateMedia({ media: "print" });
  assert.ok(await page.locator("[data-controls]").isHidden());
  assert.ok(await page.locator("#picture-1 img").isVisible());
  await screenshot(page, "gallery-print");
}));

test("an unknown shoe is said to be one, and its form leads on", () => withPage(browser, { allow: NOT_FOUND }, async (page) => {
  await page.goto(`${server.origin}/?shoe_id=100000`, { waitUntil: "load" });
  assert.match(await page.locator("h1").textContent(), /no shoe 100000/);
  assert.equal(await page.locator('meta[name="robots"]').getAttribute("content"), "noindex");
  await page.getByLabel("Another number").fill("12");
  await Promise.all([page.waitForURL(/shoe_id=12/), page.getByRole("button", { name: "Show the shoe" }).click()]);
  assert.equal(await page.locator("h1").textContent(), "Shoe 12");
}));

test("the front page leads to its shoes", () => withPage(browser, {}, async (page) => {
  await page.goto(server.origin, { waitUntil: "load" });
  assert.equal(await page.locator(".card").count(), 12);
  await Promise.all([page.waitForURL(/\/shoes\/3$/), page.getByRole("link", { name: "Shoe 3", exact: true }).click()]);
  assert.equal(await page.locator("h1").textContent(), "Shoe 3");
  await page.getByLabel("Shoe number").fill("9");
  await Promise.all([page.waitForURL(/shoe_id=9/), page.keyboard.press("Enter")]);
  assert.equal(await page.locator("h1").textContent(), "Shoe 9");
}));

test("the first key that moves the focus skips the header", () => withPage(browser, {}, async (page) => {
  await page.goto(`${server.origin}/shoes/7`, { waitUntil: "load" });
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(new URL(page.url()).hash, "#main");
}));
