// Draws samples into the page. Touches only what has changed, so that nothing flickers, and no figure is a live region: only
// a change of the server's state is told to who listens.

import { area, decades, line, linear, logarithmic, roundUp } from "./chart.js";
import { bytes, count, percent, span, time } from "./words.js";

/** How much the charts show. */
const LENGTH_MS = 180_000;

/** From which share of errors on a figure is marked. */
const ERRORS = { warn: 0.001, bad: 0.01 };

const SVG = "http://www.w3.org/2000/svg";

const element = (id) => document.getElementById(id);

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setTone(node, tone) {
  if (tone === undefined) node.removeAttribute("data-tone");
  else if (node.dataset.tone !== tone) node.dataset.tone = tone;
}

/** The last LENGTH_MS of one figure. */
class History {
  points = [];

  push(at, value) {
    // A clock that was set back would draw a line back.
    if (this.points.length > 0 && this.points.at(-1).at >= at) this.points = [];
    this.points.push({ at, value: value ?? null });
    const first = this.points.findIndex((point) => at - point.at <= LENGTH_MS);
    if (first > 0) this.points.splice(0, first);
  }

  values() {
    return this.points.map(({ value }) => value);
  }

  most() {
    return Math.max(0, ...this.values().filter((value) => Number.isFinite(value)));
  }
}

/** A figure with one line: how its value and the top of its scale are written. */
const FIGURES = [
  { id: "requests", of: ({ last }) => last?.requests, write: count },
  { id: "errors", of: ({ window }) => window?.errorShare, write: percent, least: 0.01 },
  { id: "shed", of: ({ last }) => last?.shed, write: count },
  { id: "queue", of: ({ window }) => window?.queue.p99, write: time },
  { id: "connections", of: ({ sample, last }) => (last ? connections(sample) : null), write: count },
  { id: "l1", of: ({ window }) => window?.l1, write: percent, most: 1 },
  { id: "redis", of: ({ window }) => window?.redis, write: percent, most: 1 },
].map((figure) => ({ ...figure, history: new History() }));

const LATENCIES = ["p50", "p99", "p999"].map((id) => ({ id, history: new History() }));

const connections = (sample) => sample.workers.reduce((sum, worker) => sum + (worker.connections ?? 0), 0);

/**
 * Draws a sample.
 * @param sample a checked answer of ./status.json
 * @param change what `Samples.push` says of it
 */
export function draw(sample, change) {
  drawHead(sample);
  const seen = { sample, ...change };
  const mostTime = sample.buckets_us.at(-1);
  for (const figure of FIGURES) drawFigure(figure, seen, mostTime);
  drawLatency(seen, mostTime);
  // Known before there is a second sample, and so before there is a chart.
  setText(element("connections"), count(connections(sample)));
  const { errorShare } = change.window ?? {};
  setTone(element("errors-card"), errorShare >= ERRORS.bad ? "bad" : errorShare >= ERRORS.warn ? "warn" : undefined);
  setTone(element("shed-card"), change.last?.shed > 0 ? "warn" : undefined);
  drawWorkers(seen, mostTime);
  drawReloads(sample.reloads);
}

function drawHead(sample) {
  setText(element("version"), sample.version);
  setText(element("ready"), `${sample.ready} of ${sample.wanted}`);
  setText(element("generation"), String(sample.generation));
  setText(element("uptime"), span(sample.now_ms - sample.started_ms));
  setText(element("pid"), String(sample.pid));
  const missing = sample.wanted - sample.ready;
  const short = missing > 0 && sample.state === "running" ? `, ${missing} ${missing === 1 ? "worker" : "workers"} short` : "";
  setText(element("state-text"), sample.ready === 0 ? `${sample.state}, no worker ready` : `${sample.state}${short}`);
  setTone(element("state"), toneOfServer(sample));
}

function toneOfServer({ state, ready, wanted }) {
  if (ready === 0) return "bad";
  return ready < wanted || state === "stopping" ? "warn" : "good";
}

function drawFigure({ id, of, write, least, most, history }, seen, mostTime) {
  const { now_ms: now } = seen.sample;
  const value = of(seen);
  history.push(now, value);
  setText(element(id), write(value, mostTime));
  const high = Math.max(history.most(), history.values().includes(Infinity) ? mostTime : 0);
  const top = most ?? Math.max(least ?? 0, roundUp(high));
  const frame = { now, length: LENGTH_MS, scale: linear(top) };
  element(`${id}-line`).setAttribute("d", line(history.points, frame));
  element(`${id}-area`).setAttribute("d", area(history.points, frame));
  const label = element(`${id}-top`);
  if (label) setText(label, high > 0 ? write(top, mostTime) : "");
}

function drawLatency({ sample, window }, mostTime) {
  const now = sample.now_ms;
  for (const { id, history } of LATENCIES) {
    const value = window?.latency[id];
    history.push(now, value);
    setText(element(id), time(value, mostTime));
  }
  const values = LATENCIES.flatMap(({ history }) => history.values());
  const [least, most] = decades(values, mostTime);
  const frame = { now, length: LENGTH_MS, scale: logarithmic(least, most) };
  for (const { id, history } of LATENCIES) element(`${id}-line`).setAttribute("d", line(history.points, frame));
  const any = values.some((value) => value !== null);
  setText(element("latency-top"), any ? time(most) : "");
  setText(element("latency-bottom"), any ? time(least) : "");
}

/** The columns of a worker's row: how it is written, and the tone if there is one. */
const COLUMNS = [
  { write: ({ worker }) => String(worker.slot) },
  { write: ({ worker }) => (worker.pid === 0 ? "–" : String(worker.pid)) },
  { write: ({ worker }) => worker.state.replaceAll("_", " "), tone: ({ worker }) => toneOfWorker(worker.state), isState: true },
  { write: ({ worker }) => String(worker.generation) },
  { write: ({ worker, now }) => (worker.pid === 0 ? "–" : span(now - worker.started_ms)) },
  { write: ({ last }) => (last?.cpu == null ? "–" : `${Math.round(last.cpu * 100)} %`) },
  { write: ({ worker }) => bytes(worker.rss_bytes) },
  { write: ({ worker }) => count(worker.connections) },
  { write: ({ last }) => count(last?.requests) },
  { isTrend: true },
  { write: ({ window, most }) => time(window?.latency.p50, most) },
  { write: ({ window, most }) => time(window?.latency.p99, most) },
  { write: ({ window, most }) => time(window?.latency.p999, most) },
  { write: ({ window }) => percent(window?.l1) },
  { write: ({ window, most }) => time(window?.queue.p99, most) },
  { write: ({ last }) => count(last?.shed), tone: ({ last }) => (last?.shed > 0 ? "warn" : undefined) },
  { write: ({ last }) => count(last?.failures), tone: ({ last }) => (last?.failures > 0 ? "bad" : undefined) },
];

function toneOfWorker(state) {
  if (state === "ready") return "good";
  if (state === "aborting" || state === "degraded") return "bad";
  return state === "backing_off" ? "warn" : "quiet";
}

/** The rows of living workers, by slot and pid: a slot without a process has pid 0. */
const rows = new Map();

function drawWorkers({ sample, last, window }, most) {
  const body = element("workers");
  const workers = sample.workers.toSorted((a, b) => a.slot - b.slot || a.started_ms - b.started_ms);
  const named = workers.map((worker) => [`${worker.slot} ${worker.pid}`, worker]);
  const living = new Set(named.map(([name]) => name));
  for (const [name, row] of rows) {
    if (living.has(name)) continue;
    row.node.remove();
    rows.delete(name);
  }
  for (const [name, { pid }] of named) {
    const row = rows.get(name) ?? newRow();
    rows.set(name, row);
    row.history.push(sample.now_ms, last?.workers.get(pid)?.requests);
  }
  // One scale for all, so that a worker with less to do than its siblings shows.
  const top = Math.max(1, ...[...rows.values()].map((row) => row.history.most()));
  const frame = { now: sample.now_ms, length: LENGTH_MS, scale: linear(top) };
  named.forEach(([name, worker], at) => {
    const row = rows.get(name);
    const seen = {
      worker,
      most,
      now: sample.now_ms,
      last: last?.workers.get(worker.pid),
      // A worker that is younger than the window has only the last second.
      window: window?.workers.get(worker.pid) ?? last?.workers.get(worker.pid),
    };
    COLUMNS.forEach(({ write, tone, isTrend }, column) => {
      if (isTrend) return;
      setText(row.cells[column], write(seen));
      if (tone) setTone(row.cells[column], tone(seen));
    });
    row.trend.setAttribute("d", line(row.history.points, frame));
    // Moved only if it stands elsewhere: a moved row loses what the reader has selected in it.
    if (body.children[at] !== row.node) body.insertBefore(row.node, body.children[at] ?? null);
  });
}

function newRow() {
  const node = document.createElement("tr");
  const trend = document.createElementNS(SVG, "path");
  trend.setAttribute("class", "line");
  const cells = COLUMNS.map(({ isState, isTrend }, column) => {
    const cell = document.createElement(column === 0 ? "th" : "td");
    if (column === 0) cell.scope = "row";
    node.append(cell);
    if (isTrend) {
      const chart = document.createElementNS(SVG, "svg");
      chart.setAttribute("viewBox", "0 0 300 60");
      chart.setAttribute("preserveAspectRatio", "none");
      chart.setAttribute("aria-hidden", "true");
      chart.append(trend);
      cell.className = "trend";
      cell.append(chart);
      return cell;
    }
    if (!isState) {
      cell.className = "number";
      return cell;
    }
    const mark = document.createElement("span");
    mark.className = "mark";
    cell.append(mark);
    return mark;
  });
  return { node, cells, trend, history: new History() };
}

/** What the table of reloads shows, as text: it is drawn anew only when that changes. */
let drawnReloads;

function drawReloads(reloads) {
  const text = JSON.stringify(reloads);
  if (text === drawnReloads) return;
  drawnReloads = text;
  element("reloads").replaceChildren(...(reloads.length === 0 ? [emptyRow()] : reloads.map(reloadRow)));
}

function emptyRow() {
  const row = document.createElement("tr");
  const cell = document.createElement("td");
  cell.colSpan = 6;
  cell.className = "none";
  cell.textContent = "none since the server's start";
  row.append(cell);
  return row;
}

function reloadRow({ at_ms, kind, outcome, generation, took_ms, why }) {
  const row = document.createElement("tr");
  const cell = (content, name) => {
    const node = document.createElement("td");
    if (name) node.className = name;
    node.append(content);
    row.append(node);
  };
  const when = document.createElement("time");
  const moment = new Date(at_ms);
  when.dateTime = Number.isNaN(moment.getTime()) ? "" : moment.toISOString();
  when.textContent = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const mark = document.createElement("span");
  mark.className = "mark";
  mark.dataset.tone = outcome === "done" ? "good" : "bad";
  mark.textContent = outcome;
  cell(when);
  cell(kind);
  cell(mark);
  cell(String(generation), "number");
  cell(time(took_ms * 1000), "number");
  cell(why || "–", why ? "why" : "none");
  return row;
}

/** Says that what is shown is old, and since when; null: that it is not. */
export function drawStale(text) {
  const notice = element("notice");
  document.documentElement.classList.toggle("stale", text !== null);
  document.title = text === null ? "canvas-cluster" : "(stale) canvas-cluster";
  notice.hidden = text === null;
  setText(notice, text ?? "");
}
