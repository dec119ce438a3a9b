// The arithmetic of the live page: rates, shares and percentiles from the differences of two samples.

import assert from "node:assert/strict";
import { test } from "node:test";

import { GAP_MS, Samples, WINDOW_MS, checked, compare, grown, grownCounts, quantile, share } from "../../web/live/rates.js";
import { sample, worker } from "./fixture.mjs";

const BOUNDS = [100, 250, 500, 1000];

test("a quantile is interpolated within its bucket, as Prometheus does", () => {
  assert.equal(quantile(BOUNDS, [10, 0, 0, 0, 0], 0.5), 50);
  assert.equal(quantile(BOUNDS, [0, 10, 0, 0, 0], 0.5), 175);
  // 90 of 100 are below 100 us, so the 99th is nine tenths into the next ten.
  assert.equal(quantile(BOUNDS, [90, 10, 0, 0, 0], 0.99), 235);
  // The rank falls on the end of a bucket: it is the bucket's bound, whatever is empty behind it.
  assert.equal(quantile(BOUNDS, [50, 0, 0, 50, 0], 0.5), 100);
  assert.equal(quantile(BOUNDS, [1, 1, 1, 1, 0], 1), 1000);
});

test("what is above the last bound is not guessed at, and of nothing there is no quantile", () => {
  assert.equal(quantile(BOUNDS, [1, 0, 0, 0, 99], 0.5), Infinity);
  assert.equal(quantile(BOUNDS, [0, 0, 0, 0, 0], 0.5), null);
  assert.equal(quantile(BOUNDS, null, 0.5), null);
  assert.equal(quantile(BOUNDS, [1, 2], 0.5), null, "counts that don't fit the bounds");
});

test("a quantile rises with q and stays within the bounds", () => {
  const counts = [3, 0, 17, 80, 0];
  const values = Array.from({ length: 101 }, (_, at) => quantile(BOUNDS, counts, at / 100));
  assert.ok(values.every((value) => value >= 0 && value <= 1000), String(values));
  assert.ok(values.every((value, at) => at === 0 || value >= values[at - 1]), String(values));
});

test("a counter that went back has no difference, and one that is missing is zero", () => {
  assert.equal(grown({ shed: 5 }, { shed: 9 }, "shed"), 4);
  assert.equal(grown({ shed: 5 }, { shed: 4 }, "shed"), null);
  assert.equal(grown({}, { shed: 4 }, "shed"), 4);
  assert.equal(grown({}, {}, "shed"), 0);
  assert.deepEqual(grownCounts({ counts: [1, 2] }, { counts: [1, 5] }), [0, 3]);
  assert.equal(grownCounts({ counts: [1, 2] }, { counts: [0, 5] }), null);
  assert.equal(grownCounts({ counts: [1] }, { counts: [1, 2] }), null);
  assert.equal(grownCounts(undefined, { counts: [1] }), null);
});

test("a share of nothing is no share", () => {
  assert.equal(share(0, 0), null);
  assert.equal(share(0, 4), 0);
  assert.equal(share(3, 1), 0.75);
  assert.equal(share(null, 1), null);
});

test("two samples make rates, shares and percentiles, of all and of each worker", () => {
  const before = sample({ now_ms: 10_000, workers: [worker({ pid: 7 })] });
  const after = sample({
    now_ms: 12_000,
    totals: { requests: 3000, answers_2xx: 1980, answers_5xx: 20, shed: 10, l1_hits: 900, l1_misses: 100, redis_hits: 60, redis_misses: 40 },
    latency: { counts: [100, 0, 0, 0, 0], sum_us: 0 },
    queue_delay: { counts: [0, 10, 0, 0, 0], sum_us: 0 },
    workers: [worker({ pid: 7, cpu_seconds: 1, totals: { requests: 500 }, latency: { counts: [0, 0, 4, 0, 0], sum_us: 0 } })],
  });
  const found = compare(before, after);
  assert.equal(found.seconds, 2);
  assert.equal(found.requests, 1500);
  assert.equal(found.shed, 5);
  assert.equal(found.failures, 10);
  assert.equal(found.errorShare, 0.01);
  assert.equal(found.l1, 0.9);
  assert.equal(found.redis, 0.6);
  assert.equal(found.latency.p50, 50);
  assert.equal(found.queue.p99, 248.5);
  const one = found.workers.get(7);
  assert.equal(one.requests, 250);
  assert.equal(one.cpu, 0.5);
  assert.equal(one.latency.p50, 375);
  assert.equal(one.l1, null);
});

test("another server, other buckets, the same moment or a clock set back can't be compared", () => {
  const before = sample({ now_ms: 10_000 });
  assert.equal(compare(before, sample({ now_ms: 11_000, started_ms: 9 })), null);
  assert.equal(compare(before, sample({ now_ms: 10_000 })), null);
  assert.equal(compare(before, sample({ now_ms: 9_000 })), null);
  assert.equal(compare(before, sample({ now_ms: 11_000, buckets_us: [100, 200, 500, 1000] })), null);
});

test("a worker that is new, or has an old one's pid, has no rates yet", () => {
  const before = sample({ now_ms: 10_000, workers: [worker({ pid: 7, started_ms: 1 }), worker({ pid: 8 })] });
  const after = sample({ now_ms: 11_000, workers: [worker({ pid: 7, started_ms: 10_500 }), worker({ pid: 9 }), worker({ pid: 8 })] });
  assert.deepEqual([...compare(before, after).workers.keys()], [8]);
});

test("a slot without a process has done nothing, and CPU time that can't be had is not known", () => {
  const empty = () => worker({ pid: 0, started_ms: 0, cpu_seconds: null });
  const blind = () => worker({ pid: 7, cpu_seconds: null });
  const found = compare(sample({ now_ms: 10_000, workers: [empty(), blind()] }), sample({ now_ms: 11_000, workers: [empty(), blind()] }));
  assert.deepEqual([...found.workers.keys()], [7]);
  assert.equal(found.workers.get(7).cpu, null);
});

test("the first sample says nothing, the second speaks of one second, the window of ten", () => {
  const samples = new Samples();
  const at = (second) => sample({ now_ms: 100_000 + second * 1000, totals: { requests: second * second } });
  assert.deepEqual(samples.push(at(0)), { last: null, window: null, restarted: false });
  assert.equal(samples.push(at(1)).last.requests, 1);
  for (let second = 2; second < 30; second += 1) {
    const { last, window } = samples.push(at(second));
    assert.equal(last.seconds, 1);
    assert.equal(window.seconds, Math.min(second, WINDOW_MS / 1000));
  }
});

test("a restart and a gap begin anew", () => {
  const samples = new Samples();
  samples.push(sample({ now_ms: 100_000 }));
  assert.notEqual(samples.push(sample({ now_ms: 101_000 })).last, null);
  const restarted = samples.push(sample({ now_ms: 102_000, started_ms: 101_500 }));
  assert.deepEqual(restarted, { last: null, window: null, restarted: true });
  assert.notEqual(samples.push(sample({ now_ms: 103_000, started_ms: 101_500 })).last, null);
  const gap = samples.push(sample({ now_ms: 103_001 + GAP_MS, started_ms: 101_500 }));
  assert.deepEqual(gap, { last: null, window: null, restarted: false });
  const back = samples.push(sample({ now_ms: 50_000, started_ms: 101_500 }));
  assert.deepEqual(back, { last: null, window: null, restarted: false });
});

test("the same moment twice is one sample", () => {
  const samples = new Samples();
  samples.push(sample({ now_ms: 100_000 }));
  samples.push(sample({ now_ms: 101_000 }));
  assert.equal(samples.push(sample({ now_ms: 101_000 })).last.seconds, 1);
});

test("an answer that is not one is named", () => {
  assert.equal(checked(sample({})).pid, 1);
  assert.throws(() => checked(null), /no object/);
  assert.throws(() => checked(sample({ now_ms: "soon" })), /no now_ms/);
  assert.throws(() => checked(sample({ latency: {} })), /no latency/);
  assert.throws(() => checked(sample({ workers: [{}] })), /no worker with a pid/);
  assert.throws(() => checked(sample({ reloads: undefined })), /no reloads/);
});
