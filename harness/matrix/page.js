"use strict";
// What is behind a tile, and the search. All that came out of a test goes in as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const sheet = byId("sheet");
const SHOWN = 200; // tests that a search lists
const PARTS = [["Assertion", "detail"], ["Kernel log of the test", "kernel_log"], ["Console of its guest", "console"]];

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function said(column, test, name) {
  const known = data.said[`${column}:${test}`];
  return known && name in known ? data.texts[known[name]] : "";
}

function state(code) {
  if (code === ".") return "none";
  if (code !== code.toLowerCase()) return "surprise";
  return { p: "passed", x: "foretold", s: "skipped", n: "waiting" }[code] || "surprise";
}

function line(column, test, code) {
  const made = document.createDocumentFragment();
  made.append(
    element("span", "result", data.words[code.toLowerCase()]),
    element("span", "name", data.tests[test].replace(/^.*?::/, "")),
    element("span", "seconds meta", data.seconds[column][test] ? `${data.seconds[column][test].toFixed(2)} s` : ""),
  );
  return made;
}

function entry(column, test) {
  const code = data.kernels[column].codes[test];
  const parts = PARTS.filter(([, name]) => said(column, test, name));
  const message = said(column, test, "message");
  const why = said(column, test, "why");
  const repro = said(column, test, "repro");
  const kind = state(code);
  if (!parts.length && !message && !why && !repro) {
    const made = element("div", `one ${kind}`);
    made.append(element("div", "line"));
    made.firstChild.append(line(column, test, code));
    return made;
  }
  const made = element("details", `one ${kind}`);
  const summary = element("summary");
  summary.append(line(column, test, code));
  made.append(summary);
  if (message) made.append(element("p", "text", message));
  if (why) made.append(element("p", "why", `foretold: ${why}`));
  for (const [title, name] of parts) {
    made.append(element("h4", "", title), element("pre", "", said(column, test, name)));
  }
  if (repro) made.append(element("h4", "", "Repeat it"), element("pre", "repro", repro));
  const when = said(column, test, "when");
  if (when) made.append(element("p", "meta", `run ${when.replace("T", " ")}`));
  made.open = kind === "surprise" && parts.length > 0;
  return made;
}

const RANK = { surprise: 0, waiting: 1, foretold: 2, passed: 3, skipped: 4, none: 5 };

function open(column, tests, title) {
  const kernel = data.kernels[column];
  const listed = tests.filter((test) => kernel.codes[test] !== ".");
  if (!listed.length) return;
  listed.sort((one, other) => RANK[state(kernel.codes[one])] - RANK[state(kernel.codes[other])] || one - other);
  byId("sheet-title").textContent = title;
  byId("sheet-about").textContent = `${kernel.title} · ${kernel.recipe}`;
  const entries = listed.map((test) => entry(column, test));
  if (entries.length === 1 && entries[0] instanceof HTMLDetailsElement) entries[0].open = true;
  byId("sheet-tests").replaceChildren(...entries);
  sheet.showModal();
  sheet.scrollTop = 0;
}

function testsOf(row) {
  return row.dataset.tests.split(",").map(Number);
}

byId("grid").addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  const fold = event.target.closest(".fold");
  if (tile) {
    const row = tile.closest("tr");
    const tests = testsOf(row);
    const place = data.tests[tests[0]].split("::")[0];
    const title = row.classList.contains("feature") ? row.querySelector(".fold").textContent : place;
    open(Number(tile.dataset.column), tests, title);
  } else if (fold) {
    unfold(fold, fold.getAttribute("aria-expanded") !== "true");
  }
});
byId("close").addEventListener("click", () => sheet.close());
sheet.addEventListener("click", (event) => {
  if (event.target === sheet) sheet.close();
});

function unfold(fold, open) {
  fold.setAttribute("aria-expanded", String(open));
  for (const row of fold.closest("tbody").querySelectorAll(".file")) row.hidden = !open;
}

byId("expand").addEventListener("click", (event) => {
  const open = event.target.getAttribute("aria-pressed") !== "true";
  event.target.setAttribute("aria-pressed", String(open));
  for (const fold of document.querySelectorAll(".fold")) unfold(fold, open);
});

function testRow(test) {
  const row = element("tr", "test");
  row.dataset.tests = String(test);
  const head = element("th", "", data.tests[test].replace(/^selftests\//, ""));
  head.scope = "row";
  head.title = data.tests[test];
  row.append(head);
  data.kernels.forEach((kernel, column) => {
    const code = kernel.codes[test];
    const tile = element("button", `tile ${state(code)}`, { p: "", ".": "", s: "–" }[code] ?? code.toLowerCase());
    tile.type = "button";
    tile.dataset.column = String(column);
    tile.title = `${kernel.title}: ${data.words[code.toLowerCase()] || "no such test"}`;
    tile.setAttribute("aria-label", tile.title);
    const cell = element("td");
    cell.append(tile);
    row.append(cell);
  });
  return row;
}

byId("search").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  if (words.length) {
    data.tests.forEach((name, test) => {
      if (words.every((word) => name.toLowerCase().includes(word))) found.push(test);
    });
  }
  for (const body of document.querySelectorAll("#grid tbody:not(#found)")) body.hidden = words.length > 0;
  byId("found").replaceChildren(...found.slice(0, SHOWN).map(testRow));
  byId("nothing").hidden = !words.length || found.length > 0;
});
