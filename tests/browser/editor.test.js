// The editor, from looking a shoe up to deleting a row, with a token and without.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible, launch, screenshot, until, withPage } from "./browser.js";
import { startServer } from "./server.js";

const TOKEN = "browser-tests-0123456789";
// Browsers tell each answer of an error in the console; here those are what is tested.
const REFUSED = [/status of 40\d/];

let server;
let browser;

before(async () => {
  server = await startServer({ token: TOKEN });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const open = (page) => page.goto(`${server.origin}/admin`, { waitUntil: "load" });
const rowsOf = async (shoe) => (await fetch(`${server.origin}/api/images/?shoe_id=${shoe}`)).json();
const hears = (page, words) => until(async () => words.test(await page.locator("[data-status]").textContent()), String(words));

test("a row is added, changed and deleted", () => withPage(browser, {}, async (page) => {
  await open(page);
  await page.getByLabel("Write token").fill(TOKEN);
  await page.locator("[data-find]").getByLabel("Shoe number").fill("90001");
  await page.getByRole("button", { name: "Look up" }).click();
  await hears(page, /^Shoe 90001 has no rows\.$/);

  await page.getByRole("button", { name: "Add a row" }).click();
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "A new row");
  const form = page.locator("[data-row]");
  assert.equal(await form.getByLabel("Shoe number").inputValue(), "90001");
  await form.getByLabel("Picture 1").fill("/demo/shoes/5/1.svg");
  await form.getByLabel("Video 2").fill("/demo/clips/2.mp4");
  await page.keyboard.press("Enter");
  await hears(page, /^Row \d+ was added to shoe 90001\.$/);
  const [added] = await rowsOf(90001);
  assert.equal(added.img1, "/demo/shoes/5/1.svg");
  assert.equal(added.img2, null);
  assert.equal(added.vid2, "/demo/clips/2.mp4");
  await until(async () => await page.locator("[data-rows] li").count() === 1, "the new row in the list");

  await page.getByRole("button", { name: `Change row ${added.id}` }).click();
  await form.getByLabel("Picture 1").fill("");
  await form.getByLabel("Picture 2").fill("/demo/shoes/5/2.svg");
  await screenshot(page, "editor-row");
  await assertAccessible(page, "a row in the editor");
  await page.getByRole("button", { name: "Save" }).click();
  await hears(page, new RegExp(`^Row ${added.id} was saved\\.$`));
  const [changed] = await rowsOf(90001);
  assert.deepEqual([changed.id, changed.img1, changed.img2], [added.id, null, "/demo/shoes/5/2.svg"]);

  // The first answer to the question is no.
  await page.getByRole("button", { name: `Delete row ${added.id}` }).click();
  const question = page.getByRole("dialog");
  await assertAccessible(page, "the question");
  await screenshot(page, "editor-question");
  assert.match(await question.textContent(), new RegExp(`Delete row ${added.id} of shoe 90001\\?`));
  await page.keyboard.press("Enter");
  await hears(page, /stays/);
  assert.equal((await rowsOf(90001)).length, 1);
  await page.getByRole("button", { name: `Delete row ${added.id}` }).click();
  await page.keyboard.press("Escape");
  await hears(page, /stays/);
  await page.getByRole("button", { name: `Delete row ${added.id}` }).click();
  await question.getByRole("button", { name: "Delete it" }).click();
  await hears(page, /was deleted/);
  assert.deepEqual(await rowsOf(90001), []);
  await until(async () => await page.locator("[data-rows] li").count() === 0, "an empty list");
}));

test("what is wrong is said beside the field that it is about", () => withPage(browser, { allow: REFUSED }, async (page) => {
  await open(page);
  const form = page.locator("[data-row]");
  const find = page.locator("[data-find]").getByLabel("Shoe number");
  await find.fill("seven");
  await page.keyboard.press("Enter");
  assert.match(await page.locator("#shoe-error").textContent(), /whole number/);
  await find.fill("99999999999");
  await page.keyboard.press("Enter");
  await until(async () => /between/.test(await page.locator("#shoe-error").textContent()), "the range of a number");

  await page.getByRole("button", { name: "Add a row" }).click();
  await form.getByLabel("Shoe number").fill("90002");
  await page.getByRole("button", { name: "Save" }).click();
  await until(async () => /token/.test(await page.locator("#token-error").textContent()), "401");
  assert.equal(await page.evaluate(() => document.activeElement.id), "token");
  await page.getByLabel("Write token").fill("not-the-token");
  await page.getByRole("button", { name: "Save" }).click();
  await until(async () => /may not write/.test(await page.locator("#token-error").textContent()), "403");

  await page.getByLabel("Write token").fill(TOKEN);
  await form.getByLabel("Picture 3").fill("x".repeat(300));
  await page.getByRole("button", { name: "Save" }).click();
  await until(async () => /255/.test(await page.locator("#img3-error").textContent()), "a picture that is too long");
  const picture = form.getByLabel("Picture 3");
  assert.equal(await picture.getAttribute("aria-invalid"), "true");
  assert.equal(await page.evaluate(() => document.activeElement.id), "img3");
  await assertAccessible(page, "errors in the editor");
  await screenshot(page, "editor-errors");
  assert.deepEqual(await rowsOf(90002), []);
}));

test("a row that somebody else has deleted is said to be gone", () => withPage(browser, { allow: REFUSED }, async (page) => {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${TOKEN}` };
  const made = await fetch(`${server.origin}/api/images/`, { method: "POST", headers, body: JSON.stringify({ shoe_id: 90003 }) });
  const { id } = await made.json();
  await open(page);
  await page.getByLabel("Write token").fill(TOKEN);
  await page.locator("[data-find]").getByLabel("Shoe number").fill("90003");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: `Change row ${id}` }).click();
  assert.equal((await fetch(`${server.origin}/api/images/${id}`, { method: "DELETE", headers })).status, 204);
  await page.getByRole("button", { name: "Save" }).click();
  await until(async () => /no row has the id/i.test(await page.locator('[data-error="row"]').textContent()), "404");
}));

test("the token is kept for this tab only where that is wanted", () => withPage(browser, {}, async (page) => {
  await open(page);
  await page.getByLabel("Write token").fill(TOKEN);
  await page.reload();
  assert.equal(await page.getByLabel("Write token").inputValue(), "");
  await page.getByLabel("Write token").fill(TOKEN);
  await page.getByLabel(/Remember it in this tab/).check();
  await page.reload();
  assert.equal(await page.getByLabel("Write token").inputValue(), TOKEN);
  await page.getByLabel(/Remember it in this tab/).uncheck();
  await page.reload();
  assert.equal(await page.getByLabel("Write token").inputValue(), "");
  assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length), 0);
}));

test("a row's text is text, whatever it says", () => withPage(browser, { allow: [/Failed to load resource/, /ERR_/] }, async (page) => {
  const evil = '"><img src=x onerror=alert(1)>';
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${TOKEN}` };
  await fetch(`${server.origin}/api/images/`, { method: "POST", headers, body: JSON.stringify({ shoe_id: 90004, img1: evil, img2: "javascript:alert(1)", img3: "/demo/shoes/1/1.svg" }) });
  let asked = false;
  page.on("dialog", (dialog) => {
    asked = true;
    return dialog.dismiss();
  });
  await page.goto(`${server.origin}/shoes/90004`, { waitUntil: "load" });
  assert.equal(await page.locator("[data-slide]").count(), 1);
  await open(page);
  await page.locator("[data-find]").getByLabel("Shoe number").fill("90004");
  await page.keyboard.press("Enter");
  await hears(page, /has 1 row/);
  await page.getByRole("button", { name: /^Change row/ }).click();
  assert.equal(await page.locator("[data-row]").getByLabel("Picture 1").inputValue(), evil);
  assert.equal(asked, false);
}));
