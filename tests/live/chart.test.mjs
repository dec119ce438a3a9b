// The small charts: where points are, and that gaps stay gaps.

import assert from "node:assert/strict";
import { test } from "node:test";

import { HEIGHT, WIDTH, area, decades, line, linear, logarithmic, roundUp } from "../../web/live/chart.js";

const frame = { now: 100, length: 100, scale: linear(10) };

test("the newest point is at the right edge, the highest value below the top", () => {
  assert.equal(line([{ at: 0, value: 0 }, { at: 100, value: 10 }], frame), `M0 ${HEIGHT - 1.5}L${WIDTH} 1.5`);
});

test("a gap stays a gap, and a point alone is a dot", () => {
  const points = [0, 25, 50, 75, 100].map((at) => ({ at, value: at === 50 ? null : 5 }));
  assert.equal(line(points, frame), "M0 30L75 30M225 30L300 30");
  assert.equal(line([{ at: 50, value: 5 }], frame), "M150 30h0.01");
  assert.equal(area(points, frame), "M0 60L0 30L75 30L75 60ZM225 60L225 30L300 30L300 60Z");
  assert.equal(line([], frame), "");
  assert.equal(line([{ at: 100, value: null }], frame), "");
});

test("what is older than the chart is wide is not drawn", () => {
  assert.equal(line([{ at: -1, value: 5 }, { at: 100, value: 5 }], frame), "M300 30h0.01");
});

test("a scale ends at a round number", () => {
  for (const [value, round] of [[0, 1], [1, 1], [1.1, 1.5], [3, 3], [7, 8], [10, 10], [11, 15], [0.0031, 0.004], [12_345, 15_000]]) {
    assert.ok(Math.abs(roundUp(value) - round) < 1e-9, `${value} → ${roundUp(value)}`);
  }
});

test("times have whole decades, and what is above all bounds is at the top", () => {
  assert.deepEqual(decades([null, 120, 4500], 2_000_000), [100, 10_000]);
  assert.deepEqual(decades([120, 130], 2_000_000), [100, 1000]);
  assert.deepEqual(decades([1000], 2_000_000), [1000, 10_000]);
  assert.deepEqual(decades([500, Infinity], 2_000_000), [100, 10_000_000]);
  assert.deepEqual(decades([null], 2_000_000), [100, 10_000]);
  const scale = logarithmic(100, 10_000);
  assert.equal(scale(1000), 0.5);
  assert.equal(scale(5), 0);
  assert.equal(scale(Infinity), 1);
});
