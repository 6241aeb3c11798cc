// What no message can hold: further texts, columns of a table, features; and how an answer is to be written.

import { h } from "./dom.js";
import { t } from "./language.js";

let count = 0;

const labelled = (label, control) => {
  control.id = `field-${++count}`;
  label.setAttribute("for", control.id);
  return h("div", { class: "field" }, label, control);
};

/** The fields of one run: `values()` is what goes into a request's `inputs`. */
export class Fields {
  constructor(root, model, question) {
    this.controls = new Map();
    const texts = model.texts.filter((name) => name !== question);
    const numbers = Object.keys(model.inputs).filter((name) => model.inputs[name] === "features");
    for (const name of texts) this.controls.set(name, { control: h("textarea", { rows: 1 }), read: String });
    for (const name of model.columns) this.controls.set(name, { control: h("input", { type: "text" }), read: String });
    for (const name of numbers) this.controls.set(name, { control: h("textarea", { rows: 1, tPlaceholder: "field_numbers" }), read: (text) => vector(name, text) });
    root.parentElement.hidden = !this.controls.size;
    root.parentElement.open = !question || texts.length + numbers.length > 0 || Object.values(model.inputs).includes("table");
    root.append(...[...this.controls].map(([name, { control }]) => labelled(h("label", {}, name), control)));
  }

  /** Raises an Error for a field that cannot be read; empty ones are left out. */
  values() {
    const filled = [...this.controls].filter(([, { control }]) => control.value.trim());
    return Object.fromEntries(filled.map(([name, { control, read }]) => [name, read(control.value.trim())]));
  }
}

const vector = (name, text) => {
  try {
    const found = JSON.parse(text);
    if (Array.isArray(found)) return found;
  } catch {
    // said below
  }
  throw new Error(t("field_wrong", { name }));
};

/** Task, length and temperature: `values()` are fields of a request. */
export class Options {
  constructor(root, model) {
    const writes = Object.values(model.tasks).some((task) => task.writes);
    const names = Object.keys(model.tasks);
    this.task = h("select", {}, h("option", { value: "", t: "task_any" }), names.map((name) => h("option", { value: name }, `${name} (${model.tasks[name].type})`)));
    this.length = h("input", { type: "number", min: 1, max: model.limits.max_tokens, step: 1, inputmode: "numeric" });
    this.temperature = h("input", { type: "number", min: 0, max: 2, step: 0.1, inputmode: "decimal" });
    if (names.length > 1) root.append(labelled(h("label", { t: "task" }), this.task));
    if (writes) root.append(labelled(h("label", { t: "max_tokens" }), this.length), labelled(h("label", { t: "temperature" }), this.temperature));
    root.parentElement.hidden = !root.childElementCount;
  }

  values() {
    return {
      ...(this.task.value && { task: this.task.value }),
      ...(this.length.value && { max_tokens: Number(this.length.value) }),
      ...(this.temperature.value && { temperature: Number(this.temperature.value) }),
    };
  }
}
