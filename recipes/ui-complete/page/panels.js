// The two dialogs: settings, and saved texts.
import * as store from "./store.js";

const $ = (id) => document.getElementById(id);

export function element(tag, more = {}, ...children) {
  const made = Object.assign(document.createElement(tag), more);
  made.append(...children);
  return made;
}

function dialog(id, opener, opened) {
  const panel = $(id);
  opener.addEventListener("click", () => { opened?.(); panel.showModal(); });
  panel.querySelector(".close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
  return panel;
}

/** Settings as a live object; `failed` is called if the browser cannot keep them. */
export function settingsPanel(failed) {
  const settings = store.loadSettings();
  const inputs = new Map();
  const fill = () => inputs.forEach((input, { key }) => { input.value = settings[key] ?? ""; });
  for (const field of store.FIELDS) {
    const { key, label, explain, options, lines, min, max, step } = field;
    const input = options
      ? element("select", {}, ...Object.entries(options).map(([value, text]) => element("option", { value }, text)))
      : lines
        ? element("textarea", { rows: 2, spellcheck: false, autocapitalize: "off" })
        : element("input", { type: "number", inputMode: step === 1 ? "numeric" : "decimal", min, max, step });
    Object.assign(input, { id: `set-${key}` });
    input.setAttribute("aria-describedby", `about-${key}`);
    input.addEventListener("change", () => {
      settings[key] = store.allowed(field, input.value);
      fill();
      if (!store.saveSettings(settings)) failed();
    });
    inputs.set(field, input);
    const about = element("p", { id: `about-${key}` }, explain);
    $("fields").append(element("div", { className: lines ? "field wide" : "field" },
      element("label", { htmlFor: input.id }, label), input, about));
  }
  $("reset").addEventListener("click", () => {
    for (const field of store.FIELDS) settings[field.key] = field.value;
    fill();
    store.saveSettings(settings);
  });
  fill();
  dialog("settings", $("open-settings"));
  return settings;
}

const FULL = "This browser has no more room. Export or delete a text, then try again.";

/**
 * The saved texts. `page` has text(), name(), rename(name) and show(text, name, words), which puts another text
 * into the text area in a way that Undo takes back.
 */
export function textsPanel(page) {
  const say = (words) => { $("said").textContent = words; };

  const panel = dialog("texts", $("open-texts"), () => {
    say("");
    $("name").value = page.name() || suggestion(page.text());
    fill();
  });

  const row = ({ name, time, length }) => {
    const open = element("button", { type: "button", className: "open" }, element("b", {}, name),
      element("span", {}, `${new Date(time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })} · ${size(length)}`));
    open.addEventListener("click", () => {
      page.show(store.loadText(name), name, `Opened “${name}”. Undo brings back what was here.`);
      panel.close();
    });
    const item = element("li", {}, open);
    const action = (label, act) => {
      const button = element("button", { type: "button" }, label);
      button.setAttribute("aria-label", `${label} ${name}`);
      button.addEventListener("click", act);
      item.append(button);
    };
    action("Rename", () => rename(item, open, name));
    action("Export", () => download(name, store.loadText(name)));
    action("Delete", () => {
      const text = store.loadText(name);
      store.deleteText(name);
      const back = element("button", { type: "button" }, "Put it back");
      back.addEventListener("click", () => {
        const free = store.freeName(name);
        say(store.saveText(free, text, time) ? "" : FULL);
        fill();
      });
      say(`“${name}” is deleted.`);
      fill();
      $("said").append(" ", back);
      back.focus();
    });
    return item;
  };

  const fill = () => $("list").replaceChildren(...store.listTexts().map(row));

  const rename = (item, open, name) => {
    const input = element("input", { value: name, maxLength: 120, className: "rename" });
    input.setAttribute("aria-label", `New name of ${name}`);
    let over = false;
    const finish = (keep) => {
      if (over) return;
      over = true;
      const wanted = input.value.trim();
      if (keep && wanted && wanted !== name) {
        const free = store.freeName(wanted);
        if (!store.renameText(name, free)) say(FULL);
        else if (page.name() === name) page.rename(free);
      }
      fill();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      finish(event.key === "Enter");
    });
    input.addEventListener("blur", () => finish(true));
    item.replaceChild(input, open);
    input.select();
  };

  let asked = "";
  $("name").addEventListener("input", () => { asked = ""; });
  $("save-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("name").value.trim();
    if (!name) return;
    if (store.hasText(name) && name !== page.name() && asked !== name) {
      asked = name;
      say(`“${name}” exists already. Save once more to replace it.`);
      return;
    }
    asked = "";
    if (!store.saveText(name, page.text())) return say(FULL);
    page.rename(name);
    say(`Saved as “${name}”.`);
    fill();
  });

  $("new").addEventListener("click", () => {
    page.show("", "", "A new text. Undo brings back the one that was here.");
    panel.close();
  });
  $("export").addEventListener("click", () => download(page.name() || suggestion(page.text()) || "text", page.text()));
  $("import").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    const files = [...$("file").files];
    $("file").value = "";
    let kept = true;
    let text = "";
    let name = "";
    for (const file of files) {
      text = (await file.text()).replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n");
      name = store.freeName(file.name.replace(/\.[^.]*$/, "").slice(0, 120) || "text");
      kept = store.saveText(name, text) && kept;
    }
    fill();
    if (files.length === 1) {
      page.show(text, kept ? name : "", kept ? `Opened “${name}”. Undo brings back what was here.` : FULL);
      panel.close();
    } else if (files.length) {
      say(kept ? `${files.length} texts imported.` : FULL);
    }
  });
}

/** The first words, as a name. */
function suggestion(text) {
  return text.slice(0, 400).trim().split(/\s+/).slice(0, 6).join(" ").slice(0, 60);
}

function size(length) {
  return length < 1000 ? `${length} characters` : `${(length / 1000).toFixed(length < 1e4 ? 1 : 0)} thousand characters`;
}

function download(name, text) {
  const file = `${name.replace(/[\\/:*?"<>|\p{Cc}]+/gu, "_").replace(/^\.+/, "").slice(0, 80) || "text"}.txt`;
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  element("a", { href: address, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
