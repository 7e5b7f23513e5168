"use strict";

// Sorts tables, compares crops and switches the theme. The page is complete without it.

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
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
  const details = target && target.closest("details");
  if (details) {
    details.open = true;
    target.focus();
  }
};
addEventListener("hashchange", reveal);
reveal();
