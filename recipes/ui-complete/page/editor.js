// The text area, and behind it a copy of its text that carries the marking. Text is only ever set as text.
import { difference, moved } from "./history.js";

const AFTER = 400; // so much behind the marking decides where its last line breaks

export class Editor {
  #text = "";
  #mark = null;
  #follow = false;
  #top = 0;

  constructor(area, { ink, before, lead, made, tail, after }, edited) {
    Object.assign(this, { area, ink, tail, edited });
    this.nodes = [before, lead, made, after].map((element) => element.appendChild(document.createTextNode("")));
    this.#text = area.value;
    area.addEventListener("input", () => this.#typed());
    area.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  get text() { return this.#text; }
  get mark() { return this.#mark; }

  /** Put `text` in the place of [start, end). The selection stays where it is. */
  replace(start, end, text) {
    const { scrollTop } = this.area;
    this.area.setRangeText(text, start, end, "preserve");
    this.area.scrollTop = scrollTop;
    this.#text = this.#text.slice(0, start) + text + this.#text.slice(end);
  }

  setMark(range) {
    this.#mark = range && range.end > range.start ? { start: range.start, end: range.end } : null;
    let parts = ["", "", "", ""];
    if (this.#mark) {
      const { start, end } = this.#mark;
      // All lines before the marked one are a block of their own, which need not be laid out again while the model
      // writes. The space without width keeps an empty last line of it.
      const line = start ? this.#text.lastIndexOf("\n", start - 1) : -1;
      const before = line < 0 ? "" : `${this.#text.slice(0, line)}\u200b`;
      parts = [before, this.#text.slice(line + 1, start), this.#text.slice(start, end), this.#text.slice(end, end + AFTER)];
    }
    this.nodes.forEach((node, i) => put(node, parts[i]));
    this.#scrolled();
  }

  caret(position) { this.area.setSelectionRange(position, position); }

  /** Keep the end of the marking in sight from now on, until somebody scrolls up. */
  follow(on) {
    this.#follow = on;
    this.#top = this.area.scrollTop;
    if (on) this.reveal();
  }

  reveal() {
    if (!this.#follow || !this.#mark) return;
    const room = parseFloat(getComputedStyle(this.area).lineHeight) * 2;
    const wanted = this.tail.offsetTop + room - this.area.clientHeight;
    if (wanted > this.area.scrollTop) this.area.scrollTop = wanted;
    this.#top = this.area.scrollTop;
  }

  #scrolled() {
    const top = this.area.scrollTop;
    if (top < this.#top - 8) this.#follow = false;
    this.ink.style.transform = `translateY(${-top}px)`;
  }

  #typed() {
    const { from, to, length } = difference(this.#text, this.area.value);
    this.#text = this.area.value;
    const mark = this.#mark;
    if (mark) {
      // Text that was edited is the writer's own.
      const touched = from < mark.end && to > mark.start;
      this.setMark(touched ? null : moved(mark, from, to, length));
    }
    this.edited(from, to, length);
  }
}

// Replacing only what is different lets the browser keep the layout of the rest.
function put(node, text) {
  const { from, to, length } = difference(node.data, text);
  if (length || to > from) node.replaceData(from, to - from, text.slice(from, from + length));
}
