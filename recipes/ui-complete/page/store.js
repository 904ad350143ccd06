// What this browser keeps: settings, the text being written, saved texts. The API key only as long as the tab.

const PREFIX = "mmojo.complete.";

export const FIELDS = [
  { key: "n_predict", label: "Length", explain: "Tokens per continuation; a token is about three quarters of a word.", min: 1, max: 8192, step: 1, value: 128 },
  { key: "temperature", label: "Temperature", explain: "0 always takes the likeliest word; higher is bolder.", min: 0, max: 2, step: 0.05, value: 0.8 },
  { key: "top_k", label: "Top k", explain: "Choose among so many of the likeliest tokens; 0 among all.", min: 0, max: 1000, step: 1, value: 40 },
  { key: "top_p", label: "Top p", explain: "Choose among the likeliest that together have this probability; 1 among all.", min: 0, max: 1, step: 0.01, value: 0.95 },
  { key: "min_p", label: "Min p", explain: "Leave out what is less likely than this share of the likeliest; 0 nothing.", min: 0, max: 1, step: 0.01, value: 0.05 },
  { key: "repeat_penalty", label: "Repeat penalty", explain: "Above 1, words that came lately become less likely.", min: 1, max: 2, step: 0.01, value: 1 },
  { key: "seed", label: "Seed", explain: "The same seed gives the same text again; empty is another each time.", min: 0, max: 4294967294, step: 1, value: null },
  { key: "stop", label: "Stop at", explain: "End before any of these texts, one per line; \\n is a new line.", lines: 16, value: "" },
  { key: "where", label: "Continue at", explain: "Where the model goes on writing.", options: { end: "the end", cursor: "the cursor" }, value: "end" },
  { key: "long", label: "Too long a text", explain: "If a text does not fit the context, the model may read only its end.", options: { trim: "read its end", refuse: "say so" }, value: "trim" },
];

/** The value nearest to what was given that the field allows. */
export function allowed(field, given) {
  if (field.options) return given in field.options ? given : field.value;
  if (field.lines) return String(given ?? "").split("\n").slice(0, field.lines).map((line) => line.slice(0, 200)).join("\n");
  const number = given === "" || given == null ? NaN : Number(given);
  if (!Number.isFinite(number)) return field.value;
  const inside = Math.min(field.max, Math.max(field.min, number));
  return field.step === 1 ? Math.round(inside) : inside;
}

export function loadSettings() {
  const kept = parse(read(localStorage, "settings"), {});
  return Object.fromEntries(FIELDS.map((field) => [field.key, allowed(field, kept[field.key] ?? field.value)]));
}
export const saveSettings = (settings) => write(localStorage, "settings", JSON.stringify(settings));

/** The settings as /completion wants them. */
export function parameters(settings) {
  const { where, long, seed, stop, ...numbers } = settings;
  const unescape = (line) => line.replace(/\\([nt\\])/g, (_, c) => ({ n: "\n", t: "\t", "\\": "\\" })[c]);
  return { ...numbers, ...(seed === null ? {} : { seed }), stop: stop.split("\n").filter(Boolean).map(unescape) };
}

// The draft is this tab's first, so that two tabs do not take each other's text at a reload.
export function loadDraft() {
  for (const place of [sessionStorage, localStorage]) {
    const text = read(place, "draft");
    if (text !== null) return { text, name: read(place, "draft.name") ?? "" };
  }
  return { text: "", name: "" };
}
/** Whether at least one copy was kept. */
export function saveDraft(text, name) {
  return [localStorage, sessionStorage].map((place) => {
    if (write(place, "draft", text) && write(place, "draft.name", name)) return true;
    remove(place, "draft"); // half of a text, or an old one, is worse than none
    return false;
  }).includes(true);
}

export const loadKey = () => read(sessionStorage, "key") ?? "";
export const saveKey = (key) => write(sessionStorage, "key", key);

/** Saved texts, the latest first: [{ name, time, length }]. */
export function listTexts() {
  return Object.entries(index()).map(([name, { time, length }]) => ({ name, time, length })).sort((a, b) => b.time - a.time);
}
export const hasText = (name) => Object.hasOwn(index(), name);
export const loadText = (name) => read(localStorage, `text.${name}`) ?? "";

/** False where the browser has no room left. */
export function saveText(name, text, time = Date.now()) {
  const old = read(localStorage, `text.${name}`);
  if (!write(localStorage, `text.${name}`, text)) return false;
  const list = index();
  list[name] = { time, length: text.length };
  if (write(localStorage, "texts", JSON.stringify(list))) return true;
  if (old === null) remove(localStorage, `text.${name}`);
  else write(localStorage, `text.${name}`, old);
  return false;
}

export function deleteText(name) {
  const list = index();
  delete list[name];
  write(localStorage, "texts", JSON.stringify(list));
  remove(localStorage, `text.${name}`);
}

export function renameText(from, to) {
  const { time } = index()[from];
  if (!saveText(to, loadText(from), time)) return false;
  deleteText(from);
  return true;
}

/** A name that is not taken yet. */
export function freeName(name) {
  if (!hasText(name)) return name;
  let number = 2;
  while (hasText(`${name} ${number}`)) number++;
  return `${name} ${number}`;
}

function index() {
  return Object.assign(Object.create(null), parse(read(localStorage, "texts"), {}));
}

function parse(text, otherwise) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" ? value : otherwise;
  } catch {
    return otherwise;
  }
}

function read(place, key) {
  try { return place.getItem(PREFIX + key); } catch { return null; }
}
function write(place, key, value) {
  try { place.setItem(PREFIX + key, value); return true; } catch { return false; }
}
function remove(place, key) {
  try { place.removeItem(PREFIX + key); } catch { /* nothing is kept then */ }
}
