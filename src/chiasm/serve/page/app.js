// The page of a run: language, API key, tabs; what the run reads comes from /v1/models.

import { Ask } from "./ask.js";
import { $, announce, h } from "./dom.js";
import { problem } from "./errors.js";
import { preferred, speak, t } from "./language.js";
import { Search } from "./search.js";
import { get, hasKey, useKey } from "./server.js";
import { catchFiles } from "./tray.js";

const AGAIN = 1500; // milliseconds until a server that loads is asked again
const tabs = [...document.querySelectorAll("[role=tab]")];
const shown = {}; // tab -> what is in it

const select = (name, focus = false) => {
  for (const tab of tabs) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(`#panel-${tab.dataset.tab}`).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  if (name === "report" && !shown.report) shown.report = report();
};

/** The tab in the address, where it is there to be chosen. */
const fromAddress = () => {
  const tab = tabs.find((one) => `#${one.dataset.tab}` === location.hash && !one.hidden);
  select(tab?.dataset.tab ?? "ask");
};

const listenToTabs = () => {
  for (const tab of tabs) {
    tab.addEventListener("click", () => select(tab.dataset.tab));
    tab.addEventListener("keydown", (event) => {
      const open = tabs.filter((one) => !one.hidden);
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -open.indexOf(tab), End: open.length - 1 - open.indexOf(tab) }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      select(open[(open.indexOf(tab) + step + open.length) % open.length].dataset.tab, true);
    });
  }
  addEventListener("hashchange", fromAddress);
};

/** The report in a frame that runs nothing and reaches nothing. */
const report = async () => {
  try {
    $("#report").srcdoc = await (await get("/v1/report")).text();
  } catch (error) {
    $("#report").replaceWith(problem(error));
  }
};

/** What the run reads, once its server has loaded it. */
const model = async () => {
  for (;;) {
    try {
      return (await (await get("/v1/models")).json()).data[0];
    } catch (error) {
      if (error.status !== 503) throw error;
      state(t("loading"), "loading");
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
};

const state = (text, key = "") => {
  $("#state").textContent = text;
  $("#state").dataset.t = key;
  announce(text);
};

const describe = (run) => {
  document.title = `${run.id} · Chiasm`;
  $("#name").textContent = run.id;
  const reads = Object.entries(run.inputs).map(([name, kind]) => (name === kind ? h("span", { kind }) : h("span", {}, `${name} (`, h("span", { kind }), ")")));
  $("#reads").replaceChildren(...reads);
  $("#tasks").textContent = Object.entries(run.tasks).map(([name, task]) => (name === task.type ? name : `${name} (${task.type})`)).join(", ");
  $("#turns").dataset.t = run.history ? "turns_many" : "turns_one";
  $("#turns").textContent = t($("#turns").dataset.t);
};

const start = async () => {
  try {
    const run = await model();
    state("");
    $("#key").hidden = true;
    describe(run);
    $("#tab-search").hidden = !run.index;
    $("#tab-report").hidden = !run.report;
    shown.ask = new Ask(run);
    if (run.index) shown.search = new Search(run, (file) => (select("ask", true), shown.ask.tray.take([file])));
    fromAddress();
    $("main").hidden = false;
    catchFiles(() => !$("#panel-ask").hidden ? shown.ask.tray : !$("#panel-search").hidden ? shown.search.tray : null);
  } catch (error) {
    state("");
    if (error.status === 401) return;
    $("#state").append(problem(error));
    announce($("#state").textContent);
  }
};

const listenToKey = () => {
  document.addEventListener("key-wanted", () => {
    $("#key-says").textContent = hasKey() ? t("key_wrong") : "";
    $("#key").hidden = false;
    $("#key-value").focus();
  });
  $("#key").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey($("#key-value").value.trim());
    $("#key").hidden = true;
    if (!shown.ask) start();
  });
};

const language = $("#language");
language.value = speak(preferred());
language.addEventListener("change", () => speak(language.value));
document.documentElement.classList.remove("unready");
listenToTabs();
listenToKey();
start();
