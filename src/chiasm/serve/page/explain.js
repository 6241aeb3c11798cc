// What an answer rests on: each input's share, and marks over the pictures, words and sounds. All of it comes from /v1/explain.

import { announce, h } from "./dom.js";
import { problem, sentence } from "./errors.js";
import { rewritten, said, t } from "./language.js";
import { heat, legend, number, signed, strip, words } from "./marks.js";
import { post } from "./server.js";
import { preview } from "./tray.js";

const STRONGEST = 8; // parts that are listed as numbers

/** Show or hide the reasons of one answer; they are asked for when they are first wanted. `files`: what the answer was given. */
export const showReasons = async (button, panel, request, files) => {
  const open = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!open));
  button.textContent = t((button.dataset.t = open ? "why" : "why_hide"));
  panel.hidden = open;
  if (open || panel.childElementCount) return;
  panel.append(h("p", { class: "soft busy", t: "why_busy" }));
  announce(t("why_busy"));
  try {
    const found = await (await post("/v1/explain", request)).json();
    panel.replaceChildren(...reasons(found, files));
    announce(t(...verdict(found)));
  } catch (error) {
    panel.replaceChildren(problem(error, request.messages));
    announce(sentence(error, request.messages));
  }
};

/** How well the map did against random orders: (key of the sentence, its values). */
const verdict = ({ check, parts }) => {
  if (!parts.length) return ["why_whole", {}];
  if (!check) return ["why_unchecked", {}];
  return [check.better ? "why_better" : "why_chance", { parts: check.parts, margin: check.margin.toFixed(2), needed: check.needed.toFixed(2) }];
};

/** Which number was measured: `quantity`, in the language of the page. */
const quantity = ({ quantity, kind, answer, modalities: [left, right] }) => said(`quantity_${kind}`, { answer, left: left.input, right: right?.input }) ?? quantity;

const measured = (found) =>
  rewritten(h("p", { class: "small soft" }), (element) => {
    const figures = { value: found.value.toFixed(3), without: found.without.toFixed(3) };
    element.textContent = t("why_measured", { quantity: quantity(found), ...figures });
    if (found.passes.average) element.textContent += ` ${t("why_average", { rows: found.passes.average })}`;
  });

/** What stood for a part that was taken away. */
const taken = ({ baseline, fill }) =>
  rewritten(h("span", { class: "small soft" }), (element) => {
    element.textContent = t("why_baseline", { baseline: said(`fill_${fill.code}`, { rows: fill.rows }) ?? baseline });
  });

const percent = (value) => `${value > 0 ? "+" : ""}${value.toFixed(0)}`;

const reasons = (found, files) => {
  const [key, values] = verdict(found);
  return [
    h("h4", { t: "why_title" }),
    measured(found),
    h("h5", { t: "why_shares" }),
    shares(found.modalities),
    h("p", { class: "small soft", t: "why_shapley" }),
    ...together(found.interactions),
    h("p", { class: `verdict ${found.check?.better ? "good" : "bad"}`, t: key, values }),
    ...found.parts.map((part) => section(part, found.modalities.find((one) => one.input === part.input), files)),
    ...(found.explained === null ? [] : [h("p", { class: "small soft", t: "why_explained", values: { percent: (100 * found.explained).toFixed(0) } })]),
  ];
};

const shares = (modalities) => {
  const most = Math.max(...modalities.map((one) => Math.abs(one.value)), 1e-9);
  return h("div", { class: "signed" }, modalities.map((one) => signed(one.input, one.value, most, `${percent(one.percent)} %`)));
};

const together = (interactions) =>
  interactions.map((one) => {
    const values = { inputs: one.inputs.join(" + "), value: number(one.value), percent: percent(one.percent) };
    return h("p", { class: "small soft", t: "why_together", values });
  });

/** One item of an input with its parts marked. Colours are as strong as its own strongest part: how much all of it is worth stands beside. */
const section = (part, whole, files) => {
  const most = Math.max(...part.units.map((unit) => Math.abs(unit.value)), 1e-9);
  const own = files.filter((file) => file.input === part.input);
  const file = own[Math.max(0, own.length - (part.items ?? own.length)) + part.item];
  const name = part.input + (part.item ? ` ${part.item + 1}` : "");
  const best = [...part.units].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, STRONGEST);
  const bars = h("div", { class: "signed" }, best.map((unit) => signed(place(part, unit), unit.value, most, "")));
  const plain = part.kind === "columns" || part.kind === "vectors";
  return h(
    "section",
    { class: "part", "aria-label": name },
    h("h5", {}, `${name} · ${percent(whole.percent)} %`, taken(part)),
    drawn(part, most, file, name),
    !plain && legend(most),
    plain ? bars : h("details", {}, h("summary", { t: "why_numbers" }), bars),
  );
};

const drawn = (part, most, file, name) => {
  if (part.kind === "words") return words(part, most);
  if (!file) return null;
  if (part.kind === "picture") return heat(part, most, file, name);
  if (part.kind === "sound" || part.kind === "frames") return h("div", { class: "clip" }, preview(file), strip(part, most, file, name));
  return null;
};

/** Where a part is, in words. */
const place = (part, unit) => {
  if (part.kind === "words") return unit.text;
  if (part.kind === "picture") return `${unit.box.slice(0, 2).map(Math.round).join(", ")} – ${unit.box.slice(2).map(Math.round).join(", ")}`;
  if (part.kind === "columns") return `${unit.column} = ${unit.is}`;
  if (part.kind === "vectors") return `${unit.first + 1} – ${unit.last + 1}`;
  return `${unit.start.toFixed(2)} – ${unit.end.toFixed(2)} s`;
};
