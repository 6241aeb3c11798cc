// Searching an index: by words, a picture or a sound.

import { $, announce, h } from "./dom.js";
import { problem } from "./errors.js";
import { t } from "./language.js";
import { get, post } from "./server.js";
import { preview, Tray } from "./tray.js";

const MEDIA = ["image", "audio", "video"];

export class Search {
  /** `ask(file)`: what "ask about this" does. */
  constructor(model, ask) {
    Object.assign(this, { model, ask, found: $("#found"), box: $("#search-words"), urls: [] });
    const changed = () => this.tray.items.length && (this.box.value = "");
    this.tray = new Tray($("#search-tray"), model, { single: true, changed, complain: (text) => this.say(text) });
    const kinds = [...new Set(Object.values(model.inputs).map((kind) => (kind === "tokens" ? "text" : kind)))];
    $("#search-find").append(...[...new Set([...kinds, "text"])].map((kind) => h("option", { value: kind, kind })));
    this.box.addEventListener("input", () => this.box.value && this.tray.clear());
    $("#search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    this.dialog = $("#hit");
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  say(text) {
    $("#search-says").textContent = text;
  }

  async search() {
    const words = this.box.value.trim();
    if (!words && !this.tray.items.length) return this.say(t("search_nothing"));
    try {
      const query = words || withoutInput((await this.tray.parts())[0]);
      const find = $("#search-find").value;
      const body = { model: this.model.id, query, k: Number($("#search-k").value), ...(find && { find }) };
      const { data } = await (await post("/v1/search", body)).json();
      await this.show(data);
    } catch (error) {
      $("#search-says").replaceChildren(problem(error));
    }
  }

  async show(hits) {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    const cards = await Promise.all(hits.map((hit) => this.card(hit)));
    this.urls = cards.map((card) => card.url).filter(Boolean);
    this.found.replaceChildren(...cards.map((card) => card.element));
    this.say(hits.length ? t("search_found", { count: hits.length }) : t("search_none"));
  }

  /** A hit with its file, fetched with the key that a plain address would not carry. */
  async card(hit) {
    const blob = hit.media && MEDIA.includes(hit.modality) ? await get(hit.media).then((answer) => answer.blob(), () => null) : null;
    const url = blob && URL.createObjectURL(blob);
    const file = blob && { kind: hit.modality, blob, url, name: hit.id };
    const title = String(hit.columns[hit.side] ?? Object.values(hit.columns).find((value) => typeof value === "string") ?? hit.id);
    const score = hit.score.toFixed(3);
    const button = h("button", { type: "button", class: "open", tLabel: "search_open", values: { name: title, score }, onclick: () => this.open(hit, file, title) });
    if (file && hit.modality === "image") button.append(preview({ ...file, name: "" }));
    else if (hit.modality !== "text") button.append(h("span", { class: "sign", kind: hit.modality }));
    button.append(h("span", { class: "title" }, title), h("span", { class: "score" }, h("meter", { min: 0, max: 1, value: Math.max(0, hit.score), "aria-hidden": "true" }), score));
    return { element: h("li", {}, button), url };
  }

  /** One hit large, with all that the index knows of its row. */
  open(hit, file, title) {
    const facts = Object.entries(hit.columns).map(([name, value]) => h("div", {}, h("dt", { class: "over" }, name), h("dd", {}, String(value))));
    const close = () => this.dialog.close();
    const again = () => (close(), this.again(hit, file, title));
    const ask = () => (close(), this.ask(asFile(file)));
    this.dialog.replaceChildren(
      h("div", { class: "head" }, h("h2", {}, title), h("span", { class: "soft" }, h("span", { t: "score" }), ` ${hit.score.toFixed(3)}`)),
      ...(file ? [preview(file)] : []),
      h("dl", { class: "facts" }, facts),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "plain", t: "search_with", onclick: again }),
        file && this.model.media[hit.modality] && h("button", { type: "button", class: "plain", t: "ask_with", onclick: ask }),
        h("button", { type: "button", class: "plain", t: "close", onclick: close }),
      ),
    );
    this.dialog.showModal();
    announce(title);
  }

  async again(hit, file, title) {
    this.tray.clear();
    this.box.value = file ? "" : title;
    if (file) await this.tray.add(asFile(file));
    await this.search();
  }
}

const asFile = (file) => new File([file.blob], file.name, { type: file.blob.type });

/** A query is one thing, whichever of the run's inputs it would be in a question. */
const withoutInput = ({ input, ...part }) => part;
