// Answers of /status.json, as small as tests like them.

const nothing = () => ({ counts: [0, 0, 0, 0, 0], sum_us: 0 });

export const sample = (with_ = {}) => ({
  version: "0.1.0",
  pid: 1,
  now_ms: 0,
  started_ms: 0,
  state: "running",
  generation: 1,
  wanted: 1,
  ready: 1,
  buckets_us: [100, 250, 500, 1000],
  totals: {},
  latency: nothing(),
  queue_delay: nothing(),
  workers: [],
  reloads: [],
  ...with_,
});

export const worker = (with_ = {}) => ({
  slot: 0,
  pid: 2,
  state: "ready",
  generation: 1,
  started_ms: 0,
  heartbeat_age_ms: 10,
  cpu_seconds: 0,
  rss_bytes: 1 << 20,
  connections: 0,
  totals: {},
  latency: nothing(),
  queue_delay: nothing(),
  ...with_,
});
