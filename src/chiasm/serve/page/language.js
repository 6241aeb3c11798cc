// Which language the page speaks. An element says what it stands for (data-t and its kin), so that a switch reaches all of them.

import { SERVER_TEXTS } from "./server_texts.js";
import { TEXTS } from "./texts.js";

const STORE = "chiasm-language";
const PLACES = { t: "textContent", tLabel: "ariaLabel", tPlaceholder: "placeholder", tTitle: "title" };

const written = new WeakMap(); // element -> what writes it

let language = "en";

const remembered = () => {
  try {
    return localStorage.getItem(STORE);
  } catch {
    return null; // a browser that stores nothing
  }
};

const filled = (text, values) => text?.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

/** The text of a key, its {names} filled in. */
export const t = (key, values = {}) => filled(TEXTS[language][key], values);

/** What the server says in English, in the language of the page; undefined where the page has only the server's own words for it. */
export const said = (key, values = {}) => filled(SERVER_TEXTS[language]?.[key], values);

/** The name of a kind of input; its own, where the page knows none. */
export const kindName = (kind) => TEXTS[language][`kind_${kind}`] ?? kind;

/** An element that is more than one text: `write(element)` now, and again in each other language. */
export const rewritten = (element, write) => {
  written.set(element, write);
  element.dataset.written = "";
  write(element);
  return element;
};

/** Write what an element and all in it stand for. */
export const translate = (root = document.body) => {
  for (const element of [root, ...root.querySelectorAll("[data-t], [data-t-label], [data-t-placeholder], [data-t-title], [data-kind], [data-written]")]) {
    const values = element.dataset.values ? JSON.parse(element.dataset.values) : {};
    for (const [name, place] of Object.entries(PLACES)) {
      if (element.dataset[name]) element[place] = t(element.dataset[name], values);
    }
    if (element.dataset.kind) element.textContent = kindName(element.dataset.kind);
    written.get(element)?.(element);
  }
};

/** Speak a language from now on, and remember it. */
export const speak = (name) => {
  language = name in TEXTS ? name : "en";
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  try {
    localStorage.setItem(STORE, language);
  } catch {
    // not remembered, then
  }
  translate();
  return language;
};

/** The language that was chosen before, or the browser's. */
export const preferred = () => remembered() ?? (navigator.languages.some((name) => name.startsWith("zh")) ? "zh" : "en");
