// The gallery as its visitors use it: without a script, by keys, by finger, by mouse; pictures, enlarged ones, and films.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, until, withPage } from "./browser.js";
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

const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };
const visit = (page, path = "/shoes/7") => page.goto(server.origin + path, { waitUntil: "load" });
const current = (page) => page.locator("[data-thumb]").evaluateAll((thumbs) => thumbs.findIndex((thumb) => thumb.hasAttribute("aria-current")) + 1);
const said = (page) => page.locator("[data-status]").textContent();
const scale = (page) => page.evaluate(() => new DOMMatrix(getComputedStyle(document.querySelector(".near .picture") ?? document.documentElement).transform).a);

// Waits until the strip stands still at the slide with this number.
async function standsAt(page, number) {
  await until(() => page.evaluate((index) => {
    const stage = document.querySelector("[data-stage]");
    const slide = document.querySelectorAll("[data-slide]")[index];
    return Math.abs(slide.getBoundingClientRect().left - stage.getBoundingClientRect().left) < 1.5;
  }, number - 1), `slide ${number}`);
  await until(async () => await current(page) === number, `thumbnail ${number}`);
}

test("without a script the first picture is there, and all others can be reached", () => withPage(browser, {
  javaScriptEnabled: false,
  // Modules that are announced in the head are not fetched where no script runs.
  allow: [/\.js: csp$/],
}, async (page) => {
  const loaded = page.waitForResponse((response) => new URL(response.url()).pathname === "/demo/shoes/7/1.svg");
  const answer = await visit(page);
  assert.equal(answer.status(), 200);
  assert.match(await answer.text(), /<img class="picture" src="\/demo\/shoes\/7\/1\.svg"/);
  assert.equal((await loaded).status(), 200);
  const first = page.locator("#picture-1 img");
  assert.ok(await first.isVisible());
  const stage = await page.locator("[data-stage]").boundingBox();
  const inStage = async (selector) => {
    const box = await page.locator(selector).boundingBox();
    return Math.abs(box.x - stage.x) < 2;
  };
  assert.ok(await inStage("#picture-1"));
  assert.equal(await page.locator("[data-thumb]").count(), 9);
  for (const place of ["picture-3", "video-1", "picture-7", "video-2"]) {
    await page.locator(`[data-thumb][href="#${place}"]`).click();
    await until(() => inStage(`#${place}`), place);
  }
  for (const video of await page.locator("video").all()) {
    assert.ok(await video.evaluate((film) => film.controls && film.hasAttribute("playsinline") && film.poster !== ""));
  }
  assert.ok(await page.locator("[data-controls]").isHidden(), "buttons that would do nothing");
}));

test("keys turn the gallery, and words say what is shown", () => withPage(browser, {}, async (page) => {
  await visit(page);
  assert.equal(await current(page), 1);
  await page.keyboard.press("ArrowRight");
  await standsAt(page, 2);
  assert.match(await said(page), /^Picture 2 of 9: Shoe 7, /);
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await standsAt(page, 4);
  await page.keyboard.press("ArrowLeft");
  await standsAt(page, 3);
  await page.locator("[data-stage]").focus();
  await page.keyboard.press("End");
  await standsAt(page, 9);
  assert.match(await said(page), /^Video 9 of 9: Shoe 7, /);
  await page.keyboard.press("ArrowRight");
  await standsAt(page, 9);
  await page.keyboard.press("Home");
  await standsAt(page, 1);
  assert.equal(new URL(page.url()).hash, "#picture-1");
}));

test("from right to left the arrow keys are mirrored as well", () => withPage(browser, {}, async (page) => {
  await page.addInitScript(() => document.addEventListener("readystatechange", () => { document.documentElement.dir = "rtl"; }));
  await visit(page);
  await page.keyboard.press("ArrowLeft");
  await standsAt(page, 2);
  await page.keyboard.press("ArrowLeft");
  await standsAt(page, 3);
  await page.keyboard.press("ArrowRight");
  await standsAt(page, 2);
  await page.locator("[data-next]").click();
  await standsAt(page, 3);
}));

test("buttons, thumbnails and links to a picture show it", () => withPage(browser, {}, async (page) => {
  await visit(page, "/shoes/7#picture-4");
  await standsAt(page, 4);
  await page.locator("[data-next]").click();
  await standsAt(page, 5);
  await page.locator("[data-previous]").click();
  await standsAt(page, 4);
  await page.locator('[data-thumb][href="#picture-7"]').click();
  await standsAt(page, 7);
  const down = await page.evaluate(() => scrollY);
  await page.locator('[data-thumb][href="#picture-6"]').dispatchEvent("click");
  await standsAt(page, 6);
  assert.equal(await page.evaluate(() => scrollY), down, "the page itself stays where it is");
}));

test("a finger swipes", () => withPage(browser, phone, async (page, context) => {
  await visit(page);
  const devtools = await context.newCDPSession(page);
  const box = await page.locator("[data-stage]").boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const touch = (type, ...touchPoints) => devtools.send("Input.dispatchTouchEvent", { type, touchPoints });
  const swipe = async (by) => {
    await touch("touchStart", { x: x - by / 2, y });
    for (let step = -5; step <= 5; step += 1) {
      await touch("touchMove", { x: x + by * step / 10, y });
      await page.evaluate(() => new Promise(requestAnimationFrame));
    }
    await touch("touchEnd");
  };
  await swipe(-Math.round(box.width * 0.7));
  await standsAt(page, 2);
  assert.match(await said(page), /^Picture 2 of 9/);
  await swipe(-Math.round(box.width * 0.7));
  await standsAt(page, 3);
  await swipe(Math.round(box.width * 0.7));
  await standsAt(page, 2);
}));

test("a mouse drags, and the end of a drag is no click", () => withPage(browser, {}, async (page) => {
  await visit(page);
  const box = await page.locator("[data-stage]").boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x - box.width * 0.3, y, { steps: 6 });
  await page.mouse.up();
  await standsAt(page, 2);
  assert.equal(await scale(page), 1);
  // One that is too short changes nothing.
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x - 20, y, { steps: 4 });
  await page.mouse.up();
  await standsAt(page, 2);
}));

test("keys, a click and a wheel enlarge", () => withPage(browser, { reducedMotion: "reduce" }, async (page) => {
  await visit(page);
  await page.keyboard.press("+");
  assert.equal(await scale(page), 1.5);
  await page.keyboard.press("+");
  assert.equal(await scale(page), 2.25);
  assert.equal(await page.locator("[data-zoom]").getAttribute("aria-pressed"), "true");
  const across = () => page.evaluate(() => new DOMMatrix(getComputedStyle(document.querySelector(".near .picture")).transform).e);
  await page.keyboard.press("ArrowRight");
  assert.ok(await across() < 0, "the picture moves, and the gallery does not turn");
  assert.equal(await current(page), 1);
  await page.keyboard.press("-");
  assert.equal(await scale(page), 1.5);
  await page.keyboard.press("Escape");
  assert.equal(await scale(page), 1);

  await page.locator("#picture-1 img").click({ position: { x: 100, y: 100 } });
  assert.equal(await scale(page), 2.5);
  assert.ok(await across() > 0, "it enlarges where it was clicked");
  await page.locator("#picture-1").click();
  assert.equal(await scale(page), 1);

  await page.keyboard.down("Control");
  await page.mouse.wheel(0, -100);
  await page.keyboard.up("Control");
  await until(async () => await scale(page) > 1.5, "the wheel");
  await page.keyboard.press("Escape");

  await page.locator("[data-zoom]").click();
  assert.equal(await scale(page), 2.5);
  await page.keyboard.press("Escape");
  assert.equal(await scale(page), 1);
}));

test("a double tap and a pinch enlarge, and a finger moves what is enlarged", () => withPage(browser, { ...phone, reducedMotion: "reduce" }, async (page, context) => {
  await visit(page);
  const devtools = await context.newCDPSession(page);
  const box = await page.locator("#picture-1").boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const touch = (type, ...points) => devtools.send("Input.dispatchTouchEvent", { type, touchPoints: points.map(([x, y], id) => ({ x, y, id })) });

  await page.touchscreen.tap(x, y);
  await page.touchscreen.tap(x, y);
  await until(async () => await scale(page) === 2.5, "a double tap");
  const along = () => page.evaluate(() => new DOMMatrix(getComputedStyle(document.querySelector(".near .picture")).transform).e);
  await touch("touchStart", [x, y]);
  await touch("touchMove", [x - 30, y]);
  await touch("touchMove", [x - 60, y]);
  await touch("touchEnd");
  assert.ok(await along() < -20);
  assert.equal(await current(page), 1);
  await page.touchscreen.tap(x, y);
  await page.touchscreen.tap(x, y);
  await until(async () => await scale(page) === 1, "another double tap");

  await touch("touchStart", [x - 20, y], [x + 20, y]);
  for (const apart of [30, 45, 60]) await touch("touchMove", [x - apart, y], [x + apart, y]);
  await touch("touchEnd");
  const pinched = await scale(page);
  assert.ok(pinched > 2.5 && pinched < 3.5, `pinched to ${pinched}`);
  assert.equal(await page.evaluate(() => visualViewport.scale), 1, "the page itself is as it was");
}));

test("films play in their place, and stop when the gallery turns", () => withPage(browser, phone, async (page) => {
  await visit(page);
  await page.locator('[data-thumb][href="#video-1"]').tap();
  await standsAt(page, 8);
  for (const [number, id] of [[8, "video-1"], [9, "video-2"]]) {
    await page.locator(`[data-thumb][href="#${id}"]`).tap();
    await standsAt(page, number);
    const film = page.locator(`#${id} video`);
    const played = await film.evaluate((film) => new Promise((resolve, reject) => {
      film.addEventListener("error", () => reject(new Error(film.error?.message)), true);
      film.addEventListener("timeupdate", () => {
        if (film.currentTime > 0.3) resolve({ width: film.videoWidth, height: film.videoHeight, duration: film.duration });
      });
      film.play().catch(reject);
    }));
    assert.ok(played.width >= 640 && played.duration > 2.5 && played.duration < 6, JSON.stringify(played));
    assert.equal(await page.evaluate(() => document.fullscreenElement), null);
  }
  await page.locator("[data-previous]").tap();
  await standsAt(page, 8);
  assert.ok(await page.locator("#video-2 video").evaluate((film) => film.paused));
}));

test("the MP4 plays where WebM can't", () => withPage(browser, {}, async (page) => {
  await page.route("**/*.webm", (route) => route.fulfill({ status: 404 }));
  await visit(page);
  const film = page.locator("#video-2 video");
  const source = await film.evaluate((film) => new Promise((resolve, reject) => {
    film.querySelector("source").remove();
    film.addEventListener("timeupdate", () => film.currentTime > 0.2 && resolve(film.currentSrc));
    film.addEventListener("error", () => reject(new Error(film.error?.message)));
    film.load();
    film.play().catch(reject);
  }));
  assert.match(source, /\/demo\/clips\/2\.mp4$/);
}));

test("with reduced motion nothing glides", () => withPage(browser, { reducedMotion: "reduce" }, async (page) => {
  await visit(page);
  const offset = () => page.evaluate(() => {
    const stage = document.querySelector("[data-stage]");
    // To a hundredth: places are whole pixels.
    return Math.round(100 * stage.scrollLeft / stage.clientWidth) / 100;
  });
  await page.keyboard.press("ArrowRight");
  assert.equal(await offset(), 1);
  await page.locator('[data-thumb][href="#picture-6"]').click();
  assert.equal(await offset(), 5);
}));

test("nothing moves while the page loads", () => withPage(browser, phone, async (page) => {
  await page.addInitScript(() => {
    globalThis.shifted = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) globalThis.shifted += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
  });
  await visit(page);
  await page.waitForLoadState("networkidle");
  const shifted = await page.evaluate(() => globalThis.shifted);
  assert.ok(shifted < 0.01, `layout shift of ${shifted}`);
}));
