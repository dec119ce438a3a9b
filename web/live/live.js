// The live page: asks for ./status.json once a second and draws what has changed. Rests while nobody looks, asks ever more
// seldom while there is no answer, and says since when what it shows is old.

import { draw, drawStale } from "./page.js";
import { Samples, checked } from "./rates.js";

const EVERY_MS = 1_000;
const TIMEOUT_MS = 3_000;
const LONGEST_WAIT_MS = 15_000;

const samples = new Samples();

/** Ends the question under way, if there is one. */
let asking = null;
let timer;
let failures = 0;
/** When the last sample came, as a Date. */
let seen = null;

async function ask() {
  const begun = performance.now();
  const question = new AbortController();
  asking = question;
  let sample = null;
  try {
    sample = await read(AbortSignal.any([question.signal, AbortSignal.timeout(TIMEOUT_MS)]));
    failures = 0;
  } catch (error) {
    if (!question.signal.aborted) failed(error);
  }
  // Whoever ended the question asks again when somebody looks.
  if (question.signal.aborted) return;
  asking = null;
  const wait = failures === 0 ? EVERY_MS : Math.min(EVERY_MS * 2 ** (failures - 1), LONGEST_WAIT_MS);
  timer = setTimeout(ask, Math.max(0, wait - (performance.now() - begun)));
  if (sample === null) return;
  seen = new Date();
  draw(sample, samples.push(sample));
  drawStale(null);
}

function failed(error) {
  failures += 1;
  // A single failure may be a moment of a restart.
  if (failures > 1 || seen === null) drawStale(complaint(error));
}

async function read(signal) {
  const answer = await fetch("./status.json", { signal, cache: "no-store", redirect: "error" });
  if (!answer.ok) throw new Error(`the server answers with status ${answer.status}`);
  return checked(await answer.json());
}

function complaint(error) {
  const since = seen === null ? "Nothing to show yet" : `Stale since ${seen.toLocaleTimeString()}`;
  return `${since}: ${reason(error)}. Trying again.`;
}

function reason(error) {
  if (error.name === "TimeoutError") return `no answer within ${TIMEOUT_MS / 1000} s`;
  if (error instanceof SyntaxError) return "the answer is not JSON";
  // What fetch makes of a refused or broken connection, in each browser's own words.
  if (error instanceof TypeError) return "the server can’t be reached";
  return error.message;
}

function lookUp() {
  clearTimeout(timer);
  asking?.abort();
  asking = null;
  if (document.visibilityState === "visible") ask();
}

document.addEventListener("visibilitychange", lookUp);
// The network is back: no need to wait for the next turn.
addEventListener("online", lookUp);
lookUp();
