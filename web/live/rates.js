// The arithmetic of the live page: what two samples of ./status.json say about the time between them. Pure: it knows no page,
// no clock and no network. Counters only grow, so all that happens is a difference; where there is none to take (the first
// sample, a server or a worker that is new, a counter that went back) the answer is null, and the page shows a dash.

/** Percentiles and shares are taken over so long, so that they have enough requests to speak of. */
export const WINDOW_MS = 10_000;

/** Samples further apart than this are not compared: nobody looked, and an average over that time would look like news. */
export const GAP_MS = 5_000;

/**
 * What a counter has grown by; 0 for what neither sample counts, null if it went back.
 * @returns {number | null}
 */
export function grown(before, after, name) {
  const difference = (after[name] ?? 0) - (before[name] ?? 0);
  return difference >= 0 ? difference : null;
}

/**
 * What a histogram has grown by, bucket by bucket; null if that can't be said.
 * @param {{ counts: number[] } | undefined} before
 * @param {{ counts: number[] } | undefined} after
 * @returns {number[] | null}
 */
export function grownCounts(before, after) {
  if (!before || !after || before.counts.length !== after.counts.length) return null;
  const counts = after.counts.map((count, at) => count - before.counts[at]);
  return counts.every((count) => count >= 0) ? counts : null;
}

/**
 * The value that the share `q` of all observations does not exceed, interpolated within its bucket as if the observations
 * were spread evenly there (what Prometheus' histogram_quantile does). Infinity if it is above the last bound, null if there
 * were no observations.
 * @param {number[]} bounds upper bounds, ascending
 * @param {number[] | null} counts of each bucket, not cumulative, and one more for what is above the last bound
 * @param {number} q from 0 to 1
 */
export function quantile(bounds, counts, q) {
  if (!counts || counts.length !== bounds.length + 1) return null;
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  const rank = q * all;
  let below = 0;
  for (let at = 0; at < bounds.length; at += 1) {
    const count = counts[at];
    if (count > 0 && below + count >= rank) {
      const from = at === 0 ? 0 : bounds[at - 1];
      return from + ((bounds[at] - from) * (rank - below)) / count;
    }
    below += count;
  }
  return Infinity;
}

/**
 * The part that `some` has in `some + others`; null if there was neither.
 */
export function share(some, others) {
  if (some === null || others === null || some + others === 0) return null;
  return some / (some + others);
}

function percentiles(bounds, before, after) {
  const counts = grownCounts(before, after);
  return {
    p50: quantile(bounds, counts, 0.5),
    p99: quantile(bounds, counts, 0.99),
    p999: quantile(bounds, counts, 0.999),
  };
}

/** What server and worker have in common: rates a second, shares from 0 to 1, times in microseconds. */
function difference(bounds, before, after, seconds) {
  const by = (name) => grown(before.totals, after.totals, name);
  const rate = (name) => {
    const count = by(name);
    return count === null ? null : count / seconds;
  };
  const answers = ["answers_2xx", "answers_3xx", "answers_4xx"].reduce(
    (sum, name) => (sum === null || by(name) === null ? null : sum + by(name)),
    0,
  );
  return {
    requests: rate("requests"),
    shed: rate("shed"),
    failures: rate("answers_5xx"),
    errorShare: share(by("answers_5xx"), answers),
    l1: share(by("l1_hits"), by("l1_misses")),
    redis: share(by("redis_hits"), by("redis_misses")),
    latency: percentiles(bounds, before.latency, after.latency),
    queue: percentiles(bounds, before.queue_delay, after.queue_delay),
  };
}

/** Whether it is the same process: pids come again. */
const same = (one, other) => one.pid === other.pid && one.started_ms === other.started_ms;

/**
 * What happened between two samples of one server.
 * @returns {null | { seconds: number, workers: Map<number, object>, requests: number | null }} the figures of all, and by pid
 *   those of each worker that is in both; null if the samples can't be compared.
 */
export function compare(before, after) {
  const seconds = (after.now_ms - before.now_ms) / 1000;
  const comparable =
    before.started_ms === after.started_ms &&
    seconds > 0 &&
    before.buckets_us.length === after.buckets_us.length &&
    before.buckets_us.every((bound, at) => bound === after.buckets_us[at]);
  if (!comparable) return null;
  const workers = new Map();
  for (const worker of after.workers) {
    // A slot without a process has done nothing.
    const earlier = worker.pid === 0 ? undefined : before.workers.find((other) => same(worker, other));
    if (!earlier) continue;
    const known = Number.isFinite(worker.cpu_seconds) && Number.isFinite(earlier.cpu_seconds);
    const cpu = known ? worker.cpu_seconds - earlier.cpu_seconds : -1;
    workers.set(worker.pid, {
      ...difference(after.buckets_us, earlier, worker, seconds),
      // Of one core: 1 is a core that is never idle.
      cpu: cpu >= 0 ? cpu / seconds : null,
    });
  }
  return { seconds, workers, ...difference(after.buckets_us, before, after, seconds) };
}

/** The samples that the newest one is compared with. */
export class Samples {
  #kept = [];

  /**
   * Takes the newest sample.
   * @returns {{ last: object | null, window: object | null, restarted: boolean }} what happened since the sample before, and
   *   within WINDOW_MS; null where there is nothing to compare with. `restarted`: it is another server than before.
   */
  push(sample) {
    const last = this.#kept.at(-1);
    const restarted = last !== undefined && last.started_ms !== sample.started_ms;
    const apart = last === undefined ? 0 : sample.now_ms - last.now_ms;
    if (restarted || apart < 0 || apart > GAP_MS) this.#kept = [];
    // The same moment twice says nothing.
    else if (last !== undefined && apart === 0) this.#kept.pop();
    while (this.#kept.length > 1 && sample.now_ms - this.#kept[0].now_ms > WINDOW_MS) this.#kept.shift();
    const [oldest] = this.#kept;
    const previous = this.#kept.at(-1);
    this.#kept.push(sample);
    return {
      last: previous ? compare(previous, sample) : null,
      window: oldest ? compare(oldest, sample) : null,
      restarted,
    };
  }
}

/**
 * Checks that an answer is what the page reads, so that a wrong one is said to be wrong and not drawn.
 * @throws {Error} names what is missing
 */
export function checked(sample) {
  const need = (good, what) => {
    if (!good) throw new Error(`the answer has no ${what}`);
  };
  const histogram = (value) => Array.isArray(value?.counts) && value.counts.every(Number.isFinite);
  need(sample !== null && typeof sample === "object", "object");
  for (const name of ["now_ms", "started_ms", "generation", "wanted", "ready"]) need(Number.isFinite(sample[name]), name);
  need(Array.isArray(sample.buckets_us) && sample.buckets_us.every(Number.isFinite), "buckets_us");
  need(sample.totals !== null && typeof sample.totals === "object", "totals");
  need(histogram(sample.latency), "latency");
  need(histogram(sample.queue_delay), "queue_delay");
  need(Array.isArray(sample.workers), "workers");
  for (const worker of sample.workers) {
    need(Number.isFinite(worker?.pid) && Number.isFinite(worker.slot), "worker with a pid and a slot");
    need(worker.totals !== null && typeof worker.totals === "object", "totals of a worker");
  }
  need(Array.isArray(sample.reloads), "reloads");
  return sample;
}
