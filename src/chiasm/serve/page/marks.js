// Drawing signed values: what is for the answer is teal and solid, what is against it orange and dashed; strength is opacity.

import { h, svg } from "./dom.js";
import { decoded } from "./media.js";

const LONGEST = 1024; // pixels of the overlay's longer side
const PEAKS = 160; // bars of a waveform
const WAVE = 60; // its height

const tone = (value) => (value >= 0 ? "for" : "against");

/** A value with its sign: three digits behind the point, or two that count where it is smaller. */
export const number = (value) => (value > 0 ? "+" : "") + (value && Math.abs(value) < 0.01 ? String(Number(value.toPrecision(2))) : value.toFixed(3));

const colour = (value) => getComputedStyle(document.documentElement).getPropertyValue(`--mark-${tone(value)}`);

/** A bar to the right of the middle, or to the left where the value is below 0. */
export const signed = (name, value, most, note) =>
  h(
    "div",
    {},
    h("span", { class: "name" }, name),
    h("span", { class: "scale" }, h("span", { class: `bar ${tone(value)}`, style: { "--much": `${(50 * Math.abs(value)) / most}%` } })),
    h("span", { class: "value" }, number(value)),
    h("span", { class: "note" }, note),
  );

/** What the colours stand for. */
export const legend = (most) =>
  h(
    "div",
    { class: "key small" },
    h("span", {}, h("span", { t: "why_against" }), ` ${number(-most)}`),
    h("span", { class: "ramp", "aria-hidden": "true" }),
    h("span", {}, h("span", { t: "why_for" }), ` ${number(most)}`),
  );

/** A picture, its areas coloured on a canvas above it, and a slider for how strongly. */
export const heat = (part, most, file, name) => {
  const canvas = h("canvas", { role: "img", tLabel: "why_marks", values: { name } });
  const scale = Math.min(1, LONGEST / Math.max(part.width, part.height));
  const draw = () => {
    canvas.width = Math.max(1, Math.round(part.width * scale));
    canvas.height = Math.max(1, Math.round(part.height * scale));
    const pen = canvas.getContext("2d");
    for (const { box, value } of part.units) {
      const [left, top, right, bottom] = box.map((edge) => Math.round(edge * scale));
      pen.globalAlpha = Math.abs(value) / most;
      pen.fillStyle = colour(value);
      pen.fillRect(left, top, right - left, bottom - top);
    }
  };
  draw();
  const slider = h("input", { type: "range", min: 0, max: 100, value: 75, oninput: () => (canvas.style.opacity = slider.value / 100) });
  canvas.style.opacity = slider.value / 100;
  const picture = h("img", { src: file.url, alt: file.name, width: part.width, height: part.height });
  return h(
    "div",
    { class: "heat" },
    h("div", { class: "over-picture", style: { "--ratio": part.width / part.height } }, picture, canvas),
    h("label", { class: "small soft" }, h("span", { t: "why_opacity" }), slider),
  );
};

/** A text, its words coloured and underlined. */
export const words = (part, most) => {
  const line = h("p", { class: "marked" });
  let at = 0;
  for (const unit of [...part.units].sort((a, b) => a.start - b.start)) {
    const mark = h("mark", { class: tone(unit.value), title: number(unit.value), style: { "--much": Math.abs(unit.value) / most } }, cut(part.text, unit.start, unit.end));
    line.append(cut(part.text, at, unit.start), mark);
    at = unit.end;
  }
  line.append(cut(part.text, at));
  return line;
};

/** The server counts characters, JavaScript halves of some. */
const cut = (text, start, end) => [...text].slice(start, end).join("");

/** A sound's waveform, or a film's time, with its stretches coloured. */
export const strip = (part, most, file, name) => {
  const units = part.units.map((unit, i) => ({ ...unit, end: Math.max(unit.end, part.units[i + 1]?.start ?? unit.end) }));
  const length = part.seconds ?? Math.max(...units.map((unit) => unit.end)) + 1e-6;
  const across = (seconds) => (100 * seconds) / length;
  const stretches = units.map((unit) =>
    svg(
      "rect",
      { class: tone(unit.value), x: across(unit.start), y: 0, width: across(Math.max(unit.end - unit.start, length / 100)), height: WAVE, "fill-opacity": Math.abs(unit.value) / most },
      svg("title", {}, document.createTextNode(`${unit.start.toFixed(2)} – ${unit.end.toFixed(2)} s: ${number(unit.value)}`)),
    ),
  );
  const wave = svg("svg", { class: "strip", viewBox: `0 0 100 ${WAVE}`, preserveAspectRatio: "none", role: "img", tLabel: "why_marks", values: { name } }, stretches);
  if (part.kind === "sound") peaks(file.blob, length).then((found) => wave.append(...found), () => {}); // the marks alone, where it cannot be decoded
  return wave;
};

/** Bars of a waveform over the first `seconds` of a sound. */
const peaks = async (blob, seconds) => {
  const { samples, rate } = await decoded(blob);
  const span = Math.max(1, Math.floor((seconds * rate) / PEAKS));
  const loud = Array.from({ length: PEAKS }, (_, i) => samples.subarray(i * span, (i + 1) * span).reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  const loudest = Math.max(...loud) || 1;
  return loud.map((peak, i) => {
    const height = Math.max(1, (WAVE * peak) / loudest);
    return svg("rect", { class: "peak", x: (100 * i) / PEAKS, y: (WAVE - height) / 2, width: 60 / PEAKS, height });
  });
};
