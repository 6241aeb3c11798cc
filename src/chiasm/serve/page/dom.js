// Elements without markup: every text goes in as text.

import { translate } from "./language.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: attributes, listeners (onclick), `class`, `t` and its kin (keys of texts), `values` for them. */
export const h = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);

export const svg = (tag, props = {}, ...children) => fill(document.createElementNS(SVG, tag), props, children);

const fill = (element, props, children) => {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "values") element.dataset.values = JSON.stringify(value);
    else if (name === "kind" || /^t([A-Z]|$)/.test(name)) element.dataset[name] = value;
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  if (element.dataset.t || element.dataset.kind || props.tLabel || props.tPlaceholder || props.tTitle) translate(element);
  return element;
};

export const $ = (selector, root = document) => root.querySelector(selector);

/** Have a screen reader say something. */
export const announce = (text) => {
  $("#announcer").textContent = text;
};
