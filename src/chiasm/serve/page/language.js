// Which language the page speaks. An element says what it stands for (data-t and its kin), so that a switch reaches all of them.

import { TEXTS } from "./texts.js";

const STORE = "chiasm-language";
const PLACES = { t: "textContent", tLabel: "ariaLabel", tPlaceholder: "placeholder", tTitle: "title" };

let language = "en";

const remembered = () => {
  try {
    return localStorage.getItem(STORE);
  } catch {
    return null; // a browser that stores nothing
  }
};

/** The text of a key, its {names} filled in. */
export const t = (key, values = {}) => TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

/** The name of a kind of input; its own, where the page knows none. */
export const kindName = (kind) => TEXTS[language][`kind_${kind}`] ?? kind;

/** Write what an element and all in it stand for. */
export const translate = (root = document.body) => {
  for (const element of [root, ...root.querySelectorAll("[data-t], [data-t-label], [data-t-placeholder], [data-t-title], [data-kind]")]) {
    const values = element.dataset.values ? JSON.parse(element.dataset.values) : {};
    for (const [name, place] of Object.entries(PLACES)) {
      if (element.dataset[name]) element[place] = t(element.dataset[name], values);
    }
    if (element.dataset.kind) element.textContent = kindName(element.dataset.kind);
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
