// What went wrong, for a person: in the language of the page, with the server's own words folded away below where those are others.

import { h } from "./dom.js";
import { kindName, rewritten, said, t } from "./language.js";
import { nameOf } from "./media.js";
import { Refusal } from "./server.js";

const PART = /^messages\.(\d+)\.content\.(\d+)/;
const KINDS = { text: "text", image_url: "image", input_audio: "audio", video_url: "video" };
const WHOLE = ["messages", "query", "model"]; // that an error is about these goes without saying
const BARE = ["bad_request", "error", "all_missing"]; // codes whose sentence says little without the names in the server's words

/** An element that says it, and goes on saying it when the language changes. `messages`: what was asked, as the request had it. */
export const problem = (error, messages) =>
  rewritten(h("div", { class: "problem" }), (element) => {
    const { text, lang, original } = told(error, messages);
    element.replaceChildren(h("span", { lang }, text));
    if (original) element.append(h("details", { open: BARE.includes(error.code) }, h("summary", { t: "server_words" }), h("p", { lang: "en" }, original)));
  });

/** The same as one sentence. */
export const sentence = (error, messages) => told(error, messages).text;

const told = (error, messages) => {
  if (error.name === "AbortError") return { text: t("stopped") };
  if (error instanceof TypeError && /fetch|network|load/i.test(error.message)) return { text: t("unreachable") };
  const own = ended(error.message);
  if (!(error instanceof Refusal)) return { text: own };
  const { kind, what } = concerned(error.param, messages);
  const text = said(`error_${error.code}_${kind}`) ?? said(`error_${error.code}`);
  if (!text) return { text: own, lang: "en" };
  return { text: what ? said("concerns", { what, text }) : text, original: own };
};

/** What of a request an error is about: {kind, what}, `what` as a person would call it; "" where that is all of it. */
const concerned = (param, messages) => {
  if (!param || WHOLE.includes(param)) return { what: "" };
  const [, turn, place] = PART.exec(param) ?? [];
  const part = messages?.[turn]?.content[place];
  if (!part?.type) {
    const name = param.replace(/^inputs\./, "");
    return { kind: name, what: kindName(name) };
  }
  const kind = KINDS[part.type];
  const alike = messages[turn].content.filter((one) => one.type === part.type);
  const name = nameOf(part) ? said("named", { name: nameOf(part) }) : "";
  const what = ((alike.length > 1 && said(`nth_${kind}`, { number: alike.indexOf(part) + 1 })) || kindName(kind)) + name;
  const asked = messages.slice(0, Number(turn) + 1).filter((message) => message.role === "user").length;
  return { kind, what: Number(turn) < messages.length - 1 ? said("of_question", { number: asked, what }) : what };
};

const ended = (message) => message.charAt(0).toUpperCase() + message.slice(1) + (/[.?!。？！]$/.test(message) ? "" : ".");
