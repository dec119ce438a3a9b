// The editor: rows of a shoe, looked up, added, changed and deleted through the JSON API.
//
// The token is kept in memory, or for this tab if the reader ticks that. What the API says of a field is shown beside it.

const FIELDS = ["img1", "img2", "img3", "img4", "img5", "img6", "img7", "vid1", "vid2"];
const KEPT = "canvas-cluster:token";
const PATIENCE_MS = 15_000;

// What the API answered instead of what was asked: an RFC 9457 document, or nothing at all.
class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `The server answered with ${status}.`);
    this.status = status;
    this.field = problem.field ?? null;
  }
}

const root = document.querySelector("[data-editor]");
const part = (name) => root.querySelector(`[data-${name}]`);
const access = part("access");
const find = part("find");
const list = part("rows");
const panel = part("panel");
const form = part("row");
const confirm = part("confirm");

// The row that the form shows: its id, or null for a new one, and the shoe that it had when it was opened.
let open = null;
let openShoe = null;

// An own store may be forbidden to this page (a sandboxed frame, a setting); then nothing is kept.
const store = (() => {
  try {
    return window.sessionStorage;
  } catch (error) {
    if (error instanceof DOMException) return null;
    throw error;
  }
})();

function say(text) {
  part("status").textContent = text;
}

function beautify(text) {
  const sentence = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}

function showError(name, text) {
  const place = root.querySelector(`[data-error="${CSS.escape(name)}"]`);
  place.textContent = text;
  const input = document.getElementById(name);
  if (input instanceof HTMLInputElement) input.setAttribute("aria-invalid", "true");
  return input instanceof HTMLInputElement ? input : null;
}

function clearErrors(within) {
  for (const place of within.querySelectorAll("[data-error]")) place.textContent = "";
  for (const input of within.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
}

// Shows what went wrong where it belongs: beside the token, beside the field that it names, or under the form (`otherwise`).
function explain(error, otherwise) {
  if (!(error instanceof Refusal)) throw error;
  const text = beautify(error.message);
  const named = error.field !== null && document.getElementById(error.field);
  let name = otherwise;
  if (error.status === 401 || error.status === 403) name = "token";
  else if (named && !panel.hidden && form.contains(named)) name = error.field;
  showError(name, text)?.focus();
  say(text);
}

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  const token = access.elements.token.value.trim();
  if (method !== "GET" && token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch (error) {
    // A network that fails, a time that is over, or a token with characters that no header can hold.
    if (!(error instanceof TypeError || error instanceof DOMException)) throw error;
    const detail = method === "GET" ? "The server gave no answer: try again" : "The server gave no answer: look the shoe up to see whether it happened";
    throw new Refusal(0, { detail });
  }
  if (response.status === 204) return null;
  const json = response.headers.get("Content-Type")?.includes("json") ? await response.json() : null;
  if (!response.ok) throw new Refusal(response.status, json ?? {});
  return json;
}

// The number that a field holds, or NaN. The API takes numbers, not text.
function numberIn(input) {
  const text = input.value.trim();
  return /^-?\d+$/.test(text) ? Number(text) : NaN;
}

function describe(row) {
  const pictures = FIELDS.filter((name) => name.startsWith("img") && row[name]).length;
  const videos = FIELDS.filter((name) => name.startsWith("vid") && row[name]).length;
  return `${pictures} ${pictures === 1 ? "picture" : "pictures"}, ${videos} ${videos === 1 ? "video" : "videos"}`;
}

function button(text, kind, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = kind;
  made.textContent = text;
  made.addEventListener("click", act);
  return made;
}

function item(row) {
  const line = document.createElement("li");
  const first = FIELDS.slice(0, 7).map((name) => row[name]).find(Boolean);
  if (first) {
    const picture = document.createElement("img");
    picture.src = first;
    picture.alt = "";
    picture.width = 64;
    picture.height = 48;
    picture.loading = "lazy";
    line.append(picture);
  }
  const text = document.createElement("p");
  const title = document.createElement("strong");
  title.textContent = `Row ${row.id}`;
  const about = document.createElement("span");
  about.className = "small";
  about.textContent = describe(row);
  text.append(title, about);
  const change = button("Change", "quiet", () => edit(row));
  change.setAttribute("aria-label", `Change row ${row.id}`);
  const remove = button("Delete", "danger", () => askToDelete(row.id, row.shoe_id));
  remove.setAttribute("aria-label", `Delete row ${row.id}`);
  line.append(text, change, remove);
  return line;
}

// Lists the rows of a shoe, and says what was found unless `quietly`.
async function lookUp(shoe, quietly = false) {
  const rows = await call("GET", `/api/images/?shoe_id=${shoe}`);
  list.replaceChildren(...rows.map(item));
  if (quietly) return;
  say(rows.length === 0 ? `Shoe ${shoe} has no rows.` : `Shoe ${shoe} has ${rows.length} ${rows.length === 1 ? "row" : "rows"}.`);
}

function edit(row) {
  open = row.id ?? null;
  openShoe = row.shoe_id;
  clearErrors(form);
  form.elements.shoe_id.value = row.shoe_id ?? "";
  for (const name of FIELDS) form.elements[name].value = row[name] ?? "";
  part("title").textContent = open === null ? "A new row" : `Row ${open}`;
  part("delete").hidden = open === null;
  panel.hidden = false;
  part("title").focus();
}

function close() {
  panel.hidden = true;
  part("new").focus();
}

// A form is busy from its first call to its last answer, so that nothing is sent twice.
async function busy(within, act) {
  const buttons = [...within.querySelectorAll("button")];
  if (within.ariaBusy === "true") return;
  within.ariaBusy = "true";
  for (const each of buttons) each.setAttribute("aria-disabled", "true");
  try {
    await act();
  } finally {
    within.ariaBusy = "false";
    for (const each of buttons) each.removeAttribute("aria-disabled");
  }
}

async function save() {
  clearErrors(form);
  clearErrors(access);
  const shoe = numberIn(form.elements.shoe_id);
  if (Number.isNaN(shoe)) {
    showError("shoe_id", "A whole number, such as 7.").focus();
    say("The shoe number must be a whole number.");
    return;
  }
  const body = { shoe_id: shoe };
  for (const name of FIELDS) body[name] = form.elements[name].value.trim() || null;
  try {
    const row = open === null
      ? await call("POST", "/api/images/", body)
      : await call("PUT", `/api/images/${open}`, body);
    const done = open === null ? `Row ${row.id} was added to shoe ${row.shoe_id}.` : `Row ${row.id} was saved.`;
    find.elements.shoe.value = row.shoe_id;
    close();
    say(done);
    await lookUp(row.shoe_id, true);
  } catch (error) {
    explain(error, "row");
  }
}

async function askToDelete(id, shoe) {
  part("question").textContent = `Delete row ${id} of shoe ${shoe}?`;
  confirm.returnValue = "cancel";
  confirm.showModal();
  await new Promise((resolve) => confirm.addEventListener("close", resolve, { once: true }));
  if (confirm.returnValue !== "delete") {
    say(`Row ${id} stays.`);
    return;
  }
  clearErrors(access);
  clearErrors(find);
  clearErrors(form);
  try {
    await call("DELETE", `/api/images/${id}`);
    close();
    say(`Row ${id} was deleted.`);
    await lookUp(shoe, true);
  } catch (error) {
    explain(error, panel.hidden ? "shoe" : "row");
  }
}

find.addEventListener("submit", (event) => {
  event.preventDefault();
  clearErrors(find);
  const shoe = numberIn(find.elements.shoe);
  if (Number.isNaN(shoe)) {
    showError("shoe", "A whole number, such as 7.").focus();
    say("The shoe number must be a whole number.");
    return;
  }
  busy(find, () => lookUp(shoe).catch((error) => explain(error, "shoe")));
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  busy(form, save);
});

part("new").addEventListener("click", () => {
  const shoe = numberIn(find.elements.shoe);
  edit({ shoe_id: Number.isNaN(shoe) ? "" : shoe });
});
part("cancel").addEventListener("click", close);
part("delete").addEventListener("click", () => {
  if (form.ariaBusy !== "true") askToDelete(open, openShoe);
});

// Enter in the token's field sends nothing anywhere.
access.addEventListener("submit", (event) => event.preventDefault());
access.addEventListener("input", () => {
  clearErrors(access);
  if (!store) return;
  if (access.elements.keep.checked) store.setItem(KEPT, access.elements.token.value);
  else store.removeItem(KEPT);
});
const kept = store?.getItem(KEPT);
if (kept) {
  access.elements.token.value = kept;
  access.elements.keep.checked = true;
}
