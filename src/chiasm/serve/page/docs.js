// Lists what /openapi.json says. Every text goes in as text, never as HTML.
"use strict";

const add = (parent, tag, text, kind) => {
  const element = parent.appendChild(document.createElement(tag));
  if (text) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};

const named = (schema) => (schema.$ref ? schema.$ref.split("/").pop() : schema.title);

const typed = (schema) => {
  if (schema.$ref) return named(schema);
  const several = schema.anyOf || schema.oneOf;
  if (several) return several.map(typed).filter((kind) => kind !== "null").join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${typed(schema.items || {})}`;
  return schema.type || "anything";
};

const fields = (parent, schema) => {
  const table = add(add(parent, "div", "", "scroll"), "table");
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const row = add(table, "tr");
    add(add(row, "td"), "code", name);
    add(row, "td", typed(field) + ((schema.required || []).includes(name) ? "" : ", optional"), "soft");
    add(row, "td", field.description || "");
  }
};

const show = (api) => {
  document.getElementById("about").textContent = api.info.description || "";
  const routes = document.getElementById("routes");
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, route] of Object.entries(verbs)) {
      const card = add(routes, "details");
      const head = add(card, "summary");
      add(head, "span", verb.toUpperCase(), "verb");
      add(head, "code", path);
      add(head, "span", ` ${route.summary || ""}`, "soft");
      add(card, "p", route.description || "");
      const body = route.requestBody && route.requestBody.content["application/json"].schema;
      if (body) fields(card, body.$ref ? api.components.schemas[named(body)] : body);
    }
  }
  const parts = add(routes, "details");
  add(add(parts, "summary"), "span", "What the bodies are made of", "soft");
  for (const [name, schema] of Object.entries((api.components || {}).schemas || {})) {
    if (!schema.properties || name.includes("Validation")) continue;
    add(add(parts, "h3"), "code", name);
    add(parts, "p", schema.description || "", "soft");
    fields(parts, schema);
  }
};

fetch("/openapi.json").then((answer) => answer.json()).then(show);
