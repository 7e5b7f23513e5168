"use strict";

// Filters and sorts, copies, compares crops and switches the theme. The page is complete without it.

for (const part of document.querySelectorAll(".scripted")) part.hidden = false;

for (const table of document.querySelectorAll("table")) {
  if (!table.tHead) continue; // of the checks of a self-test
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const sorted = head.getAttribute("aria-sort");
      // The best comes first; a second click reverses the order.
      const descending = sorted ? sorted === "ascending" : head.dataset.best === "high";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table.tBodies[0], column, descending);
    });
  });
}

function sort(body, column, descending) {
  const key = (row) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const rows = [...body.rows].map((row) => ({ row, key: key(row) }));
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // missing values stay last
    const order = typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
    return descending ? -order : order;
  });
  body.append(...rows.map(({ row }) => row));
}

const filters = [...document.querySelectorAll("select[data-facet]")];
const measured = [...document.querySelectorAll("tr[data-id]")];
function filter() {
  const off = new Set();
  for (const row of measured) {
    const facets = { ...row.dataset, group: row.closest("section").id };
    if (filters.some((f) => f.value && f.value !== facets[f.dataset.facet])) off.add(row.dataset.id);
  }
  for (const part of document.querySelectorAll("[data-id]")) part.classList.toggle("off", off.has(part.dataset.id));
  for (const group of document.querySelectorAll("section.group")) {
    const rows = [...group.querySelectorAll("tr[data-id]")];
    const left = rows.filter((row) => !off.has(row.dataset.id)).length;
    group.classList.toggle("off", left === 0);
    group.classList.toggle("filtered", left < rows.length);
  }
  const text = off.size ? `${measured.length - off.size} of ${measured.length} rows` : "";
  document.querySelector(".tools output").textContent = text;
}
for (const select of filters) {
  select.addEventListener("change", () => {
    filter();
    const group = select.dataset.facet === "group" && document.getElementById(select.value);
    if (group) group.scrollIntoView();
  });
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // where the browser gives pages of files no clipboard
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const name = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = name; }, 1500);
}
for (const button of document.querySelectorAll(".take .copy")) {
  button.addEventListener("click", () => copy(button.previousElementSibling.textContent, button));
}
const asText = {
  csv: (rows) => rows.map((row) => row.map((cell) => (/[",]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",")),
  latex: (rows, title) => {
    const safe = (cell) => cell.replace(/[\\&%$#_{}~^]/g, (c) => ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" }[c] || `\\${c}`));
    const lines = rows.map((row) => `${row.map(safe).join(" & ")} \\\\`);
    return [`% ${title}`, `\\begin{tabular}{ll${"r".repeat(rows[0].length - 2)}}`, "\\toprule", lines[0], "\\midrule", ...lines.slice(1), "\\bottomrule", "\\end{tabular}"];
  },
};
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => {
    const section = button.closest("section");
    const clean = (cell) => cell.textContent.replace(/\s+/g, " ").trim();
    const rows = [...section.querySelectorAll("table tr:not(.off)")].map((row) => {
      const [name, ...cells] = row.cells;
      const link = name.querySelector("a");
      const names = link ? [clean(link), clean(name.querySelector(".how"))] : [clean(name), "Run by"];
      return [...names, ...cells.map((cell) => clean(cell).replace(/(\d),(?=\d)/g, "$1"))];
    });
    copy(asText[button.dataset.copy](rows, clean(section.querySelector("h2"))).join("\n") + "\n", button);
  });
}
for (const mark of document.querySelectorAll(".mark[data-id]")) {
  mark.addEventListener("click", () => { location.hash = mark.dataset.id; });
}

const theme = document.getElementById("theme");
const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
const nameTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
  try { localStorage.setItem("srdeploy-theme", root.dataset.theme); } catch { /* pages opened from a file may have no storage */ }
});
systemDark.addEventListener("change", nameTheme);
try {
  const stored = localStorage.getItem("srdeploy-theme");
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
} catch { /* use the theme of the system */ }
nameTheme();
theme.hidden = false;

for (const gallery of document.querySelectorAll(".gallery")) {
  const images = [...gallery.querySelectorAll(".tiles img")];
  const stage = gallery.querySelector(".stage");
  const range = stage.querySelector("input");
  const sides = [
    [gallery.querySelector(".left"), stage.querySelector(".over"), Math.min(1, images.length - 1)],
    [gallery.querySelector(".right"), stage.querySelector(".under"), Math.max(images.length - 2, 0)],
  ];
  for (const [select, shown, first] of sides) {
    images.forEach((image, i) => select.add(new Option(image.dataset.name, String(i), i === first, i === first)));
    const show = () => {
      const image = images[Number(select.value)];
      shown.src = image.src;
      shown.alt = image.alt;
    };
    select.addEventListener("change", show);
    show();
  }
  const split = () => {
    stage.style.setProperty("--split", range.value + "%");
    range.setAttribute("aria-valuetext", `${range.value} % ${sides[0][0].selectedOptions[0].text}`);
  };
  range.addEventListener("input", split);
  sides[0][0].addEventListener("change", split);
  split();
  gallery.querySelector(".compare").hidden = false;
}

// A name in the table links into a closed receipt. Some browsers do not open it by themselves.
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) return;
  if (target.closest(".off")) {
    for (const select of filters) select.value = "";
    filter();
  }
  let details = target.closest("details");
  while (details) {
    details.open = true;
    details = details.parentElement.closest("details");
  }
  if (target.tabIndex === -1 && target.closest("details")) target.focus();
  target.scrollIntoView();
};
addEventListener("hashchange", reveal);
filter(); // browsers keep the choices of a page that is loaded again
reveal();
