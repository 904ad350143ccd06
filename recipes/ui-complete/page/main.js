// The page: puts the editor, its history, the server and what the browser keeps together.
import { Server, Trouble } from "./api.js";
import { Editor } from "./editor.js";
import { History } from "./history.js";
import { settingsPanel, textsPanel } from "./panels.js";
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);
const NOT_KEPT = "This browser keeps no text of this size. Export it before you leave.";

const server = new Server();
server.key = store.loadKey();
let context = 0; // tokens; 0 is not known
let perToken = 0; // characters, by what the server counted last; 0 is not known
const USUAL = 4;
const COUNTED = 200_000; // characters; longer texts are not sent to be counted
let running = null; // { abort, flush } while the model writes
let draftName = "";
let keptAll = true;

const draft = store.loadDraft();
$("text").value = draft.text;
draftName = draft.name;

const editor = new Editor(
  $("text"),
  { ink: $("ink"), before: $("before"), lead: $("lead"), made: $("made"), tail: $("tail"), after: $("after") },
  (from, to, length) => {
    history.edited(from, to, length);
    changed();
  },
);
const history = new History(
  (start, end) => editor.text.slice(start, end),
  (start, end, text) => editor.replace(start, end, text),
);
const settings = settingsPanel(() => say("This browser keeps no settings; they hold until you leave.", { bad: true }));

// What is said

function say(words, { bad = false, reason = "", action, act } = {}) {
  $("status").textContent = words;
  $("status").dataset.reason = reason;
  $("status").classList.toggle("bad", bad);
  $("action").hidden = !action;
  $("action").textContent = action ?? "";
  $("action").onclick = act ?? null;
}

function show() {
  const busy = running !== null;
  const focused = document.activeElement;
  $("continue").hidden = busy;
  $("stop").hidden = !busy;
  $("undo").disabled = busy || !history.canUndo;
  $("redo").disabled = busy || !history.canRedo;
  $("retry").disabled = busy || !history.last || Boolean(history.last.fixed);
  $("keep").disabled = busy || !editor.mark;
  $("open-texts").disabled = busy;
  $("text").readOnly = busy;
  // Whoever goes by keyboard stays at the toolbar.
  if (focused?.disabled || focused?.hidden) (busy ? $("stop") : $("continue")).focus();
}

function showUse(tokens, about = false) {
  $("count").textContent = context ? `${about ? "≈ " : ""}${number(tokens)} of ${number(context)}` : "";
  $("size").hidden = $("meter").hidden = !context;
  $("meter").max = context || 1;
  $("meter").value = Math.min(tokens, context);
}
const number = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");

// What is kept

let saving = 0;
let saveCost = 0;
function save() {
  clearTimeout(saving);
  saving = 0;
  const begun = performance.now();
  const kept = store.saveDraft(editor.text, draftName);
  saveCost = performance.now() - begun;
  if (!kept && keptAll) say(NOT_KEPT, { bad: true });
  keptAll = kept;
}
function saveSoon() { saving ||= setTimeout(save, Math.max(400, saveCost * 20)); }

addEventListener("pagehide", leave);
document.addEventListener("visibilitychange", () => { if (document.hidden) leave(); });
addEventListener("beforeunload", (event) => { if (!keptAll && editor.text) event.preventDefault(); });
function leave() {
  running?.flush();
  save();
}

// The size of the text in tokens

let counting = 0;
let counter = null;
function changed() {
  saveSoon();
  show();
  countSoon();
}
function countSoon() {
  clearTimeout(counting);
  counter?.abort();
  counting = setTimeout(count, 700);
}
async function count() {
  const { text } = editor;
  if (!context || running) return;
  if (text.length > COUNTED) return showUse(Math.round(text.length / (perToken || USUAL)), true);
  counter = new AbortController();
  try {
    const tokens = text ? await server.tokens(text, counter.signal) : 0;
    if (running) return;
    if (tokens > 20) perToken = text.length / tokens;
    showUse(tokens);
  } catch { /* it is told when it matters: at Continue */ }
}

// The server

let polling = 0;
async function connect(pause = 1000) {
  clearTimeout(polling);
  try {
    const { model, context: size } = await server.props();
    context = size;
    $("model").textContent = $("model").title = model || "Model";
    $("key-form").hidden = true;
    if (store.loadKey() !== server.key) store.saveKey(server.key);
    if (!running) say(keptAll ? "" : NOT_KEPT, { bad: !keptAll });
    countSoon();
  } catch (trouble) {
    if (running) return;
    tell(trouble);
    if (trouble.kind === "loading" || trouble.kind === "absent") again(pause);
  }
}
function again(pause) {
  clearTimeout(polling);
  polling = setTimeout(() => (document.hidden ? again(pause) : connect(Math.min(pause * 1.5, 15_000))), pause);
}

function tell(trouble) {
  if (!(trouble instanceof Trouble)) {
    console.error(trouble);
    return say("Something went wrong in this page. Your text is kept; load the page again.", { bad: true, reason: "page" });
  }
  if (trouble.kind === "key") {
    $("key-form").hidden = false;
    say(`${trouble.message} Whoever started the server has it.`, { bad: true, reason: "key" });
    return $("key").focus({ preventScroll: true });
  }
  const retry = ["absent", "loading", "odd"].includes(trouble.kind);
  say(trouble.message, { bad: trouble.kind !== "loading", reason: trouble.kind, ...(retry && { action: "Try now", act: () => connect() }) });
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  server.key = $("key").value.trim();
  $("key").value = "";
  connect();
});

// Continuing

function lastPart(text, characters) {
  if (text.length <= characters) return text;
  const part = text.slice(text.length - Math.max(0, Math.floor(characters)));
  const edge = part.search(/\s/); // begin with a whole word
  return edge >= 0 && edge < 200 ? part.slice(edge) : part.replace(/^[\uDC00-\uDFFF]/, "");
}

/** The server's events; a text that does not fit is asked again with its end only, where that is wished. */
async function* ask(text, signal, trimmed) {
  const question = parameters();
  const room = () => Math.max(16, context - Math.min(question.n_predict, Math.floor(context / 4)) - 8);
  let part = text;
  if (context && settings.long === "trim") {
    // What is known not to fit, or would leave no room to write, the server need not read to say so.
    const tokens = text.length / (perToken || USUAL);
    const known = perToken && text.length <= COUNTED;
    if (tokens > (known ? context - 32 : 8 * context)) part = lastPart(text, room() * (perToken || USUAL));
  }
  for (let tries = 0; ; tries++) {
    if (part.length < text.length) trimmed(part.length);
    try {
      yield* server.complete({ ...question, prompt: part }, signal);
      return;
    } catch (trouble) {
      if (trouble.kind !== "context" || !trouble.tokens || settings.long !== "trim" || tries > 4) throw trouble;
      context = trouble.context || context;
      perToken = part.length / trouble.tokens;
      part = lastPart(part, room() * perToken * (0.95 - 0.1 * tries));
    }
  }
}
const parameters = () => store.parameters(settings);

async function go(anew = false) {
  if (running) return;
  const area = $("text");
  if (anew && (!history.last || history.last.fixed)) return;
  const where = anew ? history.last.start : settings.where === "cursor" ? area.selectionEnd : editor.text.length;
  const prompt = editor.text.slice(0, where);
  if (!prompt.trim()) {
    say(where < editor.text.length ? "There is no text before the cursor to continue." : "Write a beginning first; a few words will do.");
    return area.focus();
  }
  clearTimeout(polling);
  counter?.abort();
  const { mark } = editor;
  editor.setMark(null);
  const step = anew ? history.again() : history.begin(where);
  const abort = new AbortController();
  let pending = "";
  let carry = "";
  let timer = 0;
  let cost = 0;
  let note = "";
  let written = 0;
  const flush = () => {
    clearTimeout(timer);
    timer = 0;
    if (!pending) return;
    const begun = performance.now();
    history.grow(step, pending);
    written += pending.length;
    pending = "";
    editor.setMark(step);
    editor.reveal();
    cost = performance.now() - begun;
    saveSoon();
  };
  const current = { abort, flush };
  running = current;
  editor.follow(true);
  show();
  say("The model is reading the text…");
  let tokens = 0;
  let end;
  let trouble;
  const begun = performance.now();
  const clock = setInterval(() => {
    if (!tokens) $("speed").textContent = `${Math.round((performance.now() - begun) / 1000)} s`;
  }, 1000);
  try {
    const events = ask(prompt, abort.signal, (length) => {
      note = `It read only the last ${number(length)} characters: more does not fit.`;
    });
    for await (const event of events) {
      if (abort.signal.aborted) break;
      if (event.stop) { end = event; }
      if (event.content) {
        if (!tokens) say("The model is writing…");
        const text = (carry + event.content).replace(/\r(?!$)\n?/g, "\n");
        carry = text.endsWith("\r") ? "\r" : "";
        pending += carry ? text.slice(0, -1) : text;
        timer ||= setTimeout(flush, Math.max(40, cost * 4));
      }
      tokens = event.tokens_predicted ?? tokens + 1;
      const read = event.tokens_evaluated ?? 0;
      if (read) showUse(read + tokens);
      if (tokens) $("speed").textContent = `${tokens} token${tokens === 1 ? "" : "s"}`;
    }
  } catch (error) {
    if (!abort.signal.aborted) trouble = error;
  }
  clearInterval(clock);
  if (carry) pending += "\n";
  flush();
  running = null;
  editor.follow(false);
  if (!written) {
    history.drop(step);
    editor.setMark(mark);
  }
  if (settings.where === "end" || written) editor.caret(step.end);
  const speed = end?.timings?.predicted_per_second;
  $("speed").textContent = speed && tokens > 1 ? `${tokens} tokens, ${speed.toFixed(1)} per second` : "";
  if (trouble) {
    tell(trouble);
    if (trouble.kind === "loading" || trouble.kind === "absent") again(2000);
  } else if (abort.signal.aborted) {
    say(written ? "Stopped." : "Stopped before the first word.", { reason: "stopped" });
  } else {
    const [words, reason] = ending(end, written);
    say(note ? `${words} ${note}` : words, { reason });
  }
  changed();
  save();
}

function ending(end, written) {
  if (end.stop_type === "eos") {
    return [written ? "The model ended the text here." : "The model would end the text here. Add a few words.", "done"];
  }
  if (end.stop_type === "word") return [`Ended at “${end.stopping_word.replaceAll("\n", "\\n")}”.`, "done"];
  if (end.truncated || (end.stop_type === "limit" && end.tokens_predicted < settings.n_predict)) {
    const then = settings.long === "trim" ? "Continue lets it read the end of the text." : "Shorten the text, or start the server with a larger -c.";
    return [`The context is full. ${then}`, "context"];
  }
  return ["Done.", "done"];
}

// Buttons and keys

function stop() { running?.abort.abort(); }

function stepTo(step, words) {
  if (!step) return;
  editor.setMark(step.at > 0 && !step.fixed ? step : null);
  if ("names" in step) draftName = step.names[step.at];
  editor.caret(step.end);
  $("speed").textContent = "";
  say(words);
  changed();
}

$("continue").addEventListener("click", () => go());
$("stop").addEventListener("click", stop);
$("retry").addEventListener("click", () => go(true));
$("undo").addEventListener("click", () => stepTo(history.undo(), "Taken back."));
$("redo").addEventListener("click", () => stepTo(history.redo(), "Brought back."));
$("keep").addEventListener("click", () => {
  editor.setMark(null);
  say("Kept.");
  show();
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!event.repeat) go();
  } else if (event.key === "Escape" && running) {
    event.preventDefault();
    stop();
  }
});

textsPanel({
  text: () => editor.text,
  name: () => draftName,
  rename(name) {
    draftName = name;
    save();
  },
  show(text, name, words) {
    editor.setMark(null);
    history.swap(text).names = [draftName, name];
    draftName = name;
    $("text").scrollTop = 0;
    editor.caret(text.length);
    $("speed").textContent = "";
    say(words);
    changed();
    save();
  },
});

// The on-screen keyboard: where the browser only covers the page, the page becomes as high as what is seen.
const seen = window.visualViewport;
function fit() {
  if (seen.scale > 1.01) return; // zoomed in: that is the reader's own view
  $("app").style.height = `${seen.height}px`;
  $("app").style.top = `${seen.offsetTop}px`;
}
if (seen) {
  seen.addEventListener("resize", fit);
  seen.addEventListener("scroll", fit);
}

$("hint").textContent = matchMedia("(pointer: fine)").matches ? `${/Mac/.test(navigator.platform) ? "⌘" : "Ctrl"} + Enter` : "";
$("bare").remove();
$("app").hidden = false;
editor.caret(editor.text.length);
$("text").scrollTop = $("text").scrollHeight;
if (matchMedia("(pointer: fine)").matches) $("text").focus();
show();
connect();
