// Asking: the composer, the conversation, answers as they are written.

import { $, announce, h } from "./dom.js";
import { problem, sentence } from "./errors.js";
import { showReasons } from "./explain.js";
import { Fields, Options } from "./fields.js";
import { rewritten, said, t } from "./language.js";
import { events } from "./server.js";
import { preview, Tray } from "./tray.js";

const LIKELY = 5; // labels whose probabilities are shown
const BASE64 = 4 / 3;

export class Ask {
  constructor(model) {
    this.model = model;
    this.turns = []; // {role, content}, as the request has them
    this.shown = []; // the newest files of each kind, which an answer may rest on
    this.running = null;
    this.form = $("#composer");
    this.box = $("#question");
    this.talk = $("#talk");
    const input = model.texts.includes("question") ? "question" : model.texts[0];
    $("#asking").hidden = !input;
    if (input && input !== "question") this.call(input);
    this.fields = new Fields($("#fields"), model, input);
    this.options = new Options($("#options"), model);
    this.tray = new Tray($("#tray"), model, { complain: (text) => this.complain(text) });
    $("#welcome-text").dataset.t = this.tray.kinds.length ? "welcome_media" : "welcome_words";
    $("#welcome-text").textContent = t($("#welcome-text").dataset.t);
    this.listen();
  }

  /** The box for words takes an input that has a name of its own. */
  call(input) {
    const label = $("[for=question]");
    delete label.dataset.t;
    delete this.box.dataset.tPlaceholder;
    label.textContent = this.box.placeholder = input;
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.box.addEventListener("keydown", (event) => {
      // isComposing: Enter that ends a word of an input method (Chinese) sends nothing
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    this.box.addEventListener("input", () => this.grow());
    $("#stop").addEventListener("click", () => this.running?.abort());
    $("#fresh").addEventListener("click", () => this.restart());
  }

  grow() {
    this.box.style.height = "auto";
    this.box.style.height = `${this.box.scrollHeight + 2}px`;
  }

  complain(text) {
    $("#complaint").textContent = text;
  }

  restart() {
    this.running?.abort();
    this.turns = [];
    this.shown = [];
    this.talk.replaceChildren();
    this.tray.clear();
    this.complain("");
    $("#welcome").hidden = false;
    $("#fresh").hidden = true;
    this.box.focus();
  }

  async ask() {
    if (this.running) return;
    const text = this.box.value.trim();
    let inputs;
    try {
      inputs = this.fields.values();
    } catch (error) {
      return this.complain(error.message);
    }
    if (!text && !this.tray.items.length && !Object.keys(inputs).length) return this.complain(t("nothing"));
    const { body_bytes } = this.model.limits;
    if (this.tray.bytes * BASE64 > body_bytes) return this.complain(t("too_large", { megabytes: Math.floor(body_bytes / BASE64 / 2 ** 20) }));
    this.complain("");
    this.busy(new AbortController());
    try {
      await this.answer(text, inputs);
    } finally {
      this.busy(null);
    }
  }

  busy(running) {
    this.running = running;
    $("#stop").hidden = !running;
    $("#ask").hidden = Boolean(running);
    if (running) $("#stop").focus();
    else if (document.activeElement === document.body) this.box.focus();
  }

  /** Put the question to the server and the answer under it. */
  async answer(text, inputs) {
    const files = [...this.tray.items];
    const content = [...(text ? [{ type: "text", text }] : []), ...(await this.tray.parts())];
    if (!content.length) content.push({ type: "text", text: "" });
    const question = { role: "user", content };
    const earlier = this.model.history ? this.turns : [];
    const request = { model: this.model.id, messages: this.fitting([...earlier, question]), inputs, ...this.options.values() };
    const reply = this.exchange(text, inputs, files);
    this.box.value = "";
    this.grow();
    if (this.model.history) this.tray.clear(); // what was shown before is remembered; else it stays for the next question
    announce(t("writing"));
    try {
      await this.read(request, reply);
    } catch (error) {
      this.failed(error, reply, request.messages);
    }
    if (reply.text) {
      this.turns.push(question, { role: "assistant", content: reply.text });
      this.reasons(request, reply, files);
      announce(t("answered", { answer: reply.text }));
    }
    reply.element.removeAttribute("aria-busy");
  }

  /** The conversation without its oldest files, as far as one request may not have so many. */
  fitting(messages) {
    let [images, clips] = [this.model.limits.images, this.model.limits.clips];
    const kept = (part) => (part.type === "text" ? true : part.type === "image_url" ? images-- > 0 : clips-- > 0);
    return messages
      .toReversed()
      .map((message) => (Array.isArray(message.content) ? { ...message, content: message.content.filter(kept) } : message))
      .filter((message) => message.content.length)
      .toReversed();
  }

  /** The elements of a question and of the answer that will come. */
  exchange(text, inputs, files) {
    $("#welcome").hidden = true;
    $("#fresh").hidden = false;
    const given = Object.entries(inputs).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
    const question = h("li", { class: "turn user" }, h("h3", { class: "over", t: "you" }));
    if (files.length) question.append(h("div", { class: "shown" }, files.map(preview)));
    if (text) question.append(h("p", { class: "words" }, text));
    if (given.length) question.append(h("p", { class: "words small" }, given.join("\n")));
    const words = h("p", { class: "words answer" });
    const element = h("li", { class: "turn card", "aria-busy": "true" }, h("h3", { class: "over" }, this.model.id), words);
    this.talk.append(question, element);
    this.follow();
    return { element, words, text: "", question: text };
  }

  /** Read the stream into the reply. */
  async read(request, reply) {
    for await (const event of events("/v1/chat/completions", request, this.running.signal)) {
      const choice = event.choices[0];
      if (choice?.delta?.content) {
        reply.text += choice.delta.content;
        reply.words.textContent = reply.text;
        this.follow();
      }
      if (choice?.finish_reason) this.ended(reply, choice.finish_reason, event.chiasm ?? {});
    }
    if (reply.text) return;
    reply.words.append(h("span", { class: "soft", t: "empty" }));
    announce(t("empty"));
  }

  /** Keep the end of the conversation, and the box for the next question, in view. */
  follow() {
    this.form.scrollIntoView({ block: "end" });
  }

  ended(reply, reason, about) {
    reply.task = about.task;
    reply.element.querySelector("h3").textContent = `${this.model.id} · ${about.task}`;
    const likely = Object.entries(about.probabilities ?? {}).sort((a, b) => b[1] - a[1]).slice(0, LIKELY);
    if (likely.length) reply.element.append(h("div", { class: "bars likely" }, likely.map(probability)));
    if (reason === "length") reply.element.append(h("p", { class: "small soft", t: "cut" }));
    for (const [number, text] of (about.warnings ?? []).entries()) reply.element.append(warning(text, about.warning_codes[number]));
    this.follow();
  }

  failed(error, reply, messages) {
    const stopped = error.name === "AbortError";
    reply.element.append(stopped ? h("p", { class: "small soft", t: "stopped" }) : problem(error, messages));
    if (!stopped && !reply.text) {
      this.box.value ||= reply.question; // to be mended and asked again
      this.grow();
    }
    announce(sentence(error, messages));
    this.follow();
  }

  /** The button that asks why. */
  reasons(request, reply, files) {
    const { messages, model, inputs } = request;
    const target = this.model.tasks[reply.task]?.writes && reply.text ? { target: reply.text } : {};
    const shown = [...files, ...this.shown.filter((item) => !files.some((file) => file.kind === item.kind))];
    this.shown = shown;
    const body = { model, messages, inputs, task: reply.task ?? request.task, ...target };
    const panel = h("div", { class: "reasons", id: `reasons-${this.turns.length}`, hidden: true });
    const button = h("button", { type: "button", class: "plain why", t: "why", "aria-expanded": "false", "aria-controls": panel.id });
    button.addEventListener("click", () => showReasons(button, panel, body, shown));
    reply.element.append(button, panel);
    this.follow();
  }
}

/** What of the conversation the model was not given. */
const warning = (text, { code, ...figures }) =>
  rewritten(h("p", { class: "small soft" }), (element) => {
    const own = said(`warning_${code}`, figures);
    element.replaceChildren(h("span", { lang: own ? null : "en" }, own ?? text));
  });

const probability = ([label, share]) =>
  h(
    "div",
    {},
    h("span", {}, label),
    h("span", { class: "track" }, h("span", { class: "fill real", style: { display: "block", width: `${100 * share}%` } })),
    h("span", { class: "value" }, `${(100 * share).toFixed(1)} %`),
  );
