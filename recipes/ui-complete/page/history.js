// What the model added, step by step, and where it lies now. Knows text positions only; no page.

/** Where [start, end) lies after text[from, to) became `length` characters long. */
export function moved({ start, end }, from, to, length) {
  const by = length - (to - from);
  if (start >= to) return { start: start + by, end: end + by };
  if (end <= from) return { start, end };
  if (from >= start) return { start, end: to <= end ? end + by : from };
  // What came over its edge is not part of it.
  return { start: from + length, end: Math.max(from + length, end + by) };
}

/** The one stretch in which two texts differ: old[from, to) became `length` characters. */
export function difference(old, now) {
  const shorter = Math.min(old.length, now.length);
  let from = 0;
  while (from < shorter && old.charCodeAt(from) === now.charCodeAt(from)) from++;
  let tail = 0;
  while (tail < shorter - from && old.charCodeAt(old.length - 1 - tail) === now.charCodeAt(now.length - 1 - tail)) tail++;
  return { from, to: old.length - tail, length: now.length - tail - from };
}

// A step is one place in the text with the versions that stood there: what was there before (version 0, empty for a
// continuation), the first attempt, the attempts after it. Undo goes back one version, or one step.
export class History {
  #steps = [];
  #done = 0; // so many steps are applied, the last of them in its version `at` > 0
  #forgotten = { steps: [], versions: [] }; // what the newest step made impossible to redo

  /** @param read (start, end) → text   @param write (start, end, text) puts text there */
  constructor(read, write, { levels = 200, characters = 2e7 } = {}) {
    Object.assign(this, { read, write, levels, characters });
  }

  get canUndo() { return this.#done > 0; }
  get canRedo() {
    const last = this.last;
    return this.#done < this.#steps.length || Boolean(last && last.at < last.versions.length - 1);
  }
  get last() { return this.#steps[this.#done - 1]; }

  /** The text changed by other hands; every place moves along. */
  edited(from, to, length, except) {
    for (const step of this.#steps) if (step !== except) Object.assign(step, moved(step, from, to, length));
  }

  /** Begin a step at a position; its text comes by `grow`. */
  begin(start) {
    this.#forgetUndone();
    return this.#push({ start, end: start, versions: ["", ""], at: 1, inner: [] });
  }

  /** Begin another version of the last step: its place is empty afterwards. */
  again() {
    this.#forgetUndone();
    const step = this.last;
    this.#show(step, step.versions.push("") - 1);
    return step;
  }

  /** Another text in the place of all that is there. */
  swap(text) {
    this.#forgetUndone();
    const step = this.#push({ start: 0, end: 0, versions: ["", text], at: 0, inner: [], fixed: true });
    this.#show(step, 1);
    return step;
  }

  grow(step, text) {
    const at = step.end;
    this.write(at, at, text);
    this.edited(at, at, text.length, step);
    step.end = at + text.length;
  }

  /** Nothing came: as if the step (or its newest version) had never begun. */
  drop(step) {
    if (step.versions.length > 2) this.#show(step, step.versions.length - 2);
    step.versions.pop();
    if (step.versions.length === 1) {
      this.#steps.pop();
      this.#done = this.#steps.length;
    }
    this.last?.versions.push(...this.#forgotten.versions);
    this.#steps.push(...this.#forgotten.steps);
  }

  undo() {
    const step = this.last;
    if (!step) return undefined;
    this.#show(step, step.at - 1);
    if (step.at === 0) this.#done--;
    return step;
  }

  redo() {
    if (!this.canRedo) return undefined;
    if (!this.last || this.last.at === this.last.versions.length - 1) this.#done++;
    this.#show(this.last, this.last.at + 1);
    return this.last;
  }

  #push(step) {
    this.#steps.push(step);
    this.#done = this.#steps.length;
    this.#trim();
    return step;
  }

  #show(step, at) {
    if (step.fixed) {
      Object.assign(step, { start: 0, end: this.read(0, Infinity).length });
      // In another text the other steps have no places; they get them back with their text.
      if (at > 0) step.places = this.#steps.map(({ start, end }) => ({ start, end }));
    }
    const { start, end } = step;
    const later = this.#steps.slice(this.#steps.indexOf(step) + 1);
    step.inner[step.at] = new Map(later.filter((other) => other.start >= start && other.end <= end)
      .map((other) => [other, { start: other.start - start, end: other.end - start }]));
    step.versions[step.at] = this.read(start, end);
    const text = step.versions[at];
    this.write(start, end, text);
    this.edited(start, end, text.length, step);
    step.inner[at]?.forEach((place, other) => Object.assign(other, { start: start + place.start, end: start + place.end }));
    if (step.fixed && at === 0) step.places.forEach((place, i) => Object.assign(this.#steps[i] ?? {}, place));
    Object.assign(step, { end: start + text.length, at });
  }

  #forgetUndone() {
    const { last } = this;
    this.#forgotten = { steps: this.#steps.splice(this.#done), versions: last ? last.versions.splice(last.at + 1) : [] };
  }

  #trim() {
    const size = () => this.#steps.reduce((sum, { versions }) => sum + versions.reduce((n, v) => n + v.length, 0), 0);
    while (this.#steps.length > 1 && (this.#steps.length > this.levels || size() > this.characters)) {
      this.#steps.shift();
      for (const step of this.#steps) step.places?.shift();
    }
    this.#done = this.#steps.length;
  }
}
