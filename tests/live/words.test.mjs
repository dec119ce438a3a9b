// How the live page writes numbers.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytes, count, percent, span, time } from "../../web/live/words.js";

const all = (write, table) => {
  for (const [value, text] of table) assert.equal(write(value), text, String(value));
};

test("what is not known is a dash", () => {
  for (const write of [count, percent, time, bytes, span]) {
    assert.equal(write(null), "–");
    assert.equal(write(undefined), "–");
  }
});

test("counts", () => all(count, [[0, "0"], [0.4, "0.4"], [3, "3"], [9.96, "10.0"], [12.3, "12"], [12_345.6, "12,346"]]));

test("a share that is not quite all or nothing does not look like it", () =>
  all(percent, [
    [0, "0 %"],
    [0.00001, "< 0.01 %"],
    [0.0012, "0.12 %"],
    [0.5, "50.0 %"],
    [0.997, "99.70 %"],
    [0.99999, "> 99.99 %"],
    [1, "100 %"],
  ]));

test("times have three digits and the unit that fits", () => {
  all(time, [
    [4.2, "4.2 µs"],
    [85.4, "85 µs"],
    [999.4, "999 µs"],
    [999.6, "1.00 ms"],
    [1234, "1.23 ms"],
    [45_600, "45.6 ms"],
    [123_456, "123 ms"],
    [1_500_000, "1.50 s"],
  ]);
  assert.equal(time(Infinity, 2_000_000), "> 2.00 s");
});

test("bytes", () => all(bytes, [[0, "0 B"], [1023, "1023 B"], [1024, "1.0 KiB"], [14_680_064, "14.0 MiB"], [157_286_400, "150 MiB"]]));

test("how long", () =>
  all(span, [
    [0, "0 s"],
    [59_999, "59 s"],
    [60_000, "1 min"],
    [61_000, "1 min 1 s"],
    [11_520_000, "3 h 12 min"],
    [90_000_000, "1 d 1 h"],
    [86_460_000, "1 d"],
    [-5, "–"],
  ]));
