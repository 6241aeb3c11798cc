// The files that go with a question: chosen, dropped, pasted or recorded.

import { $, h } from "./dom.js";
import { sentence } from "./errors.js";
import { t } from "./language.js";
import { decoded, kindOf, partOf, record, soundFormat, wav } from "./media.js";

const ACCEPT = { image: "image/*", audio: "audio/*", video: "video/*,image/gif" };

/** A picture to look at (which an animated one is too), a sound or a video to play. */
export const preview = ({ kind, blob, url, name }) =>
  kind === "image" || blob.type.startsWith("image/") ? h("img", { src: url, alt: name }) : h(kind, { src: url, controls: true, "aria-label": name, preload: "metadata" });

export class Tray {
  /** `single`: it holds one file of any kind. `complain(text)` says what cannot be taken; `changed()` that something was. */
  constructor(root, model, { single = false, complain, changed = () => {} }) {
    Object.assign(this, { model, single, complain, changed, items: [], kinds: Object.keys(model.media), recorder: null });
    this.list = h("ul", { class: "given", tLabel: "given", hidden: true });
    this.adders = h("div", { class: "adders" }, this.kinds.map((kind) => this.adder(kind)));
    if (this.kinds.includes("audio")) this.adders.append(this.microphone());
    root.replaceChildren(this.list, this.adders);
  }

  /** A button that opens the browser's own dialog for files. */
  adder(kind) {
    const several = !this.single && this.room(kind) > 1;
    const input = h("input", { type: "file", accept: ACCEPT[kind], multiple: several, hidden: true, onchange: () => this.take([...input.files], input) });
    return h("span", {}, h("button", { type: "button", class: `plain add-${kind}`, t: `add_${kind}`, onclick: () => input.click() }), input);
  }

  microphone() {
    const button = h("button", { type: "button", class: "plain microphone", t: "record", onclick: () => this.recordOrStop(button) });
    if (!navigator.mediaDevices) {
      button.disabled = true;
      button.dataset.tTitle = "record_none";
    }
    return button;
  }

  async recordOrStop(button) {
    if (this.recorder) return this.recorder.stop();
    const over = () => {
      this.recorder = null;
      button.classList.remove("live");
      delete button.dataset.values;
      button.textContent = t((button.dataset.t = "record"));
    };
    const tick = (seconds) => {
      button.dataset.values = JSON.stringify({ seconds });
      button.textContent = t((button.dataset.t = "recording"), { seconds });
    };
    try {
      this.recorder = await record(this.model.limits.audio_seconds, {
        tick,
        done: (file) => (over(), this.take([file])),
        failed: (error) => (over(), this.complain(sentence(error))),
      });
      button.classList.add("live");
      tick(0);
    } catch (error) {
      over();
      this.complain(t("record_refused", { why: error.message }));
    }
  }

  /** How many files of a kind there is room for. */
  room(kind) {
    if (this.single) return 1;
    const most = kind === "image" ? this.model.limits.images : this.model.limits.clips;
    const rooms = this.model.media[kind].map((name) => (this.model.several.includes(name) ? most : 1));
    return Math.min(most, rooms.reduce((sum, one) => sum + one, 0));
  }

  async take(files, input) {
    for (const file of files) await this.add(file);
    if (input) input.value = ""; // so that the same file can be chosen again
    this.changed();
  }

  /** Add a file; where there is no more room, it takes the place of the oldest. */
  async add(file) {
    const kind = kindOf(file, this.kinds);
    const name = file.name || kind;
    if (!kind) return this.complain(t("not_a_kind", { name: file.name }));
    let blob = file;
    if (kind === "audio" && !(await soundFormat(file))) {
      try {
        blob = wav(await decoded(file));
      } catch {
        return this.complain(t("sound_unread", { name }));
      }
    }
    const same = this.single ? this.items : this.items.filter((item) => item.kind === kind);
    if (same.length >= this.room(kind)) this.remove(same[0]);
    const taken = new Set(this.items.map((item) => item.input));
    const inputs = this.model.media[kind];
    this.items.push({ kind, blob, name, url: URL.createObjectURL(blob), input: inputs.find((one) => !taken.has(one)) ?? inputs[0] });
    this.complain("");
    this.show();
  }

  remove(item) {
    this.items = this.items.filter((one) => one !== item);
    this.show();
    this.changed();
  }

  clear() {
    this.items = [];
    this.show();
  }

  show() {
    this.list.hidden = !this.items.length;
    this.list.replaceChildren(...this.items.map((item) => this.row(item)));
  }

  row(item) {
    const inputs = this.model.media[item.kind];
    const remove = () => {
      this.remove(item);
      $("button", this.list.hidden ? this.adders : this.list).focus();
    };
    return h(
      "li",
      { class: item.kind },
      preview(item),
      !this.single && inputs.length > 1 && this.chooser(item, inputs),
      h("button", { type: "button", class: "remove", tLabel: "remove", values: { name: item.name }, onclick: remove }, "×"),
    );
  }

  /** Which of several inputs of its kind a file is for. */
  chooser(item, inputs) {
    const options = inputs.map((name) => h("option", { selected: name === item.input }, name));
    return h("select", { tLabel: "given_for", values: { name: item.name }, onchange: (event) => (item.input = event.target.value) }, options);
  }

  get bytes() {
    return this.items.reduce((sum, item) => sum + item.blob.size, 0);
  }

  parts() {
    return Promise.all(this.items.map(partOf));
  }
}

/** Files dropped anywhere on the page, or pasted, go to the tray that is in view. */
export const catchFiles = (tray) => {
  const carries = (event) => event.dataTransfer?.types.includes("Files") && tray();
  const lit = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    lit(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget || lit(false));
  addEventListener("drop", (event) => {
    lit(false);
    if (!carries(event)) return;
    event.preventDefault();
    tray().take([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || !tray()) return;
    event.preventDefault();
    tray().take(files);
  });
};
