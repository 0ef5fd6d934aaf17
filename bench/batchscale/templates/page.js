"use strict";
// Everything here is optional: the page is complete without scripts.

function sortValue(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const value = Number(text);
  return text === "" || Number.isNaN(value) ? text : value;
}

function compare(left, right) {
  if (typeof left === "number" && typeof right === "number") return left - right;
  if (typeof left !== typeof right) return typeof left === "number" ? -1 : 1;
  return left.localeCompare(right);
}

function sortBy(table, column, heading) {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.sort((one, two) => compare(sortValue(one.cells[column]), sortValue(two.cells[column])) * (ascending ? 1 : -1));
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(table, column, heading));
    heading.append(button);
  });
}

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);

function rowOf(point) {
  return document.getElementById("cell-" + point.dataset.batchSize);
}

function show(point, event) {
  const row = rowOf(point);
  row?.classList.add("shown");
  const title = point.querySelector("title");
  if (title) point.dataset.text = title.textContent;
  title?.remove();
  tip.textContent = point.dataset.text ?? "";
  tip.hidden = tip.textContent === "";
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = Math.max(4, Math.min(event.clientX + 12, room)) + "px";
  tip.style.top = event.clientY + 16 + "px";
}

function hide(point) {
  rowOf(point)?.classList.remove("shown");
  tip.hidden = true;
}

for (const point of document.querySelectorAll(".point")) {
  point.addEventListener("mousemove", (event) => show(point, event));
  point.addEventListener("mouseleave", () => hide(point));
}

const filters = [...document.querySelectorAll("[data-filter]")];
function applyFilters() {
  let visible = 0;
  const entries = [...document.querySelectorAll("[data-entry]")];
  for (const entry of entries) {
    entry.hidden = !filters.every((filter) => !filter.value || entry.getAttribute("data-" + filter.dataset.filter) === filter.value);
    visible += entry.hidden ? 0 : 1;
  }
  const count = document.querySelector("[data-count]");
  if (count) count.textContent = visible + " of " + entries.length;
}
for (const filter of filters) {
  filter.addEventListener("change", applyFilters);
  filter.closest("[hidden]")?.removeAttribute("hidden");
}
