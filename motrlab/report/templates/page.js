"use strict";
// What the page can do beyond being read: choose a part, sort and filter tables, play with the sliders.

function numberOf(text) {
  if (/^\d{4}-\d\d-/.test(text)) return null;  // a date sorts as text
  const value = parseFloat(text.replace(/[\u202f\s,]/g, "").replace("\u2212", "-"));
  return Number.isNaN(value) ? null : value;
}

function compare(a, b) {
  const x = numberOf(a), y = numberOf(b);
  return x !== null && y !== null ? x - y : x === null && y === null ? a.localeCompare(b, "en", {numeric: true}) : x === null ? 1 : -1;
}

// Groups of rows stay together, each under its heading.
function sortable(table) {
  const groups = [...table.tBodies].map(body => [body, [...body.rows].filter(row => !row.querySelector("th.group"))]);
  const rows = groups.flatMap(([, own]) => own);
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") !== "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = row => row.cells[column].textContent.trim();
      for (const [body, own] of groups) {
        own.sort((a, b) => (down ? -1 : 1) * compare(text(a), text(b)));
        body.append(...own);
      }
    });
  });
  const label = document.createElement("label"), input = document.createElement("input");
  const count = document.createElement("output");
  label.className = "filter";
  input.type = "search";
  input.placeholder = "words of a row …";
  label.append("Show only ", input, " ", count);
  table.closest(".wide").before(label);
  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    for (const [body, own] of groups) body.hidden = own.every(row => row.hidden);
    count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  };
  input.addEventListener("input", show);
  show();
}

// As `motrlab/deploy/whatif.py`, which the tests hold this to.
const AS_IT_IS = {clock: 1, cores: 1, on_chip: 1, off_chip: 1, overhead: 1, host: 1};

function chainMs([units, host, near, far, wait, beside, share, channels, passes], f) {
  const stages = [units / (f.clock * f.cores), near / f.on_chip, channels], most = Math.max(...stages);
  const inside = most + share * (stages[0] + stages[1] + stages[2] - most) + passes;
  return Math.max(inside, host / f.clock, far / f.off_chip + wait) + beside * f.overhead;
}

function whatIf(data, factors) {
  const sums = {...data.call_ms};
  for (const graph of Object.keys(sums)) sums[graph] *= factors.overhead;
  data.chains.forEach((row, i) => { sums[data.graphs[i]] += chainMs(row, factors); });
  const frame = Object.values(sums).reduce((a, b) => a + b, data.rest_ms * factors.host);
  return {...sums, frame, fps: 1000 / frame};
}

function sliders(form) {
  const data = JSON.parse(form.querySelector("script").textContent);
  const inputs = [...form.querySelectorAll("input[type=range]")];
  const update = () => {
    const factors = {...AS_IT_IS};
    for (const input of inputs) {
      let factor = 2 ** parseFloat(input.value);
      if (input.name === "cores") {
        const own = parseFloat(input.dataset.value);
        factor = Math.max(1, Math.round(own * factor)) / own;
      }
      factors[input.name] = factor;
      const value = String(parseFloat((input.dataset.value * factor).toPrecision(4)));
      input.parentElement.querySelector("output").textContent = value;
      input.setAttribute("aria-valuetext", value);
    }
    const found = whatIf(data, factors), before = whatIf(data, AS_IT_IS);
    const graphs = Object.keys(found).filter(name => name !== "frame" && name !== "fps");
    form.querySelector(".result").textContent =
      `${found.frame.toFixed(3)} ms a frame, ${found.fps.toFixed(0)} frames a second, `
      + `${(before.frame / found.frame).toFixed(2)} times as fast; `
      + graphs.map(name => `${name} ${found[name].toFixed(3)} ms`).join(", ") + ".";
  };
  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  update();
}

function chooser() {
  const parts = [...document.querySelectorAll("[data-part]")];
  const names = [...new Set(parts.map(part => part.dataset.part))];
  if (names.length < 2) return;
  const label = document.createElement("label"), select = document.createElement("select");
  label.className = "chooser";
  select.append(...["all of them", ...names].map(name => new Option(name, name)));
  select.value = names[0];
  label.append("Show ", select);
  document.querySelector("header").append(label);
  const sections = [...new Set(parts.map(part => part.closest("section")))];
  const show = () => {  // a section that has nothing of the chosen one shows what it has
    for (const own of sections.map(section => [...section.querySelectorAll("[data-part]")])) {
      const some = own.some(part => part.dataset.part === select.value);
      for (const part of own) part.hidden = some && part.dataset.part !== select.value;
    }
  };
  select.addEventListener("change", show);
  show();
}

// As `values_drawing` of `report/debugging.py`.
function valuesDrawing(found) {
  const W = 920, LEFT = 96, RIGHT = 14, BOTTOM = 34, plotWidth = W - LEFT - RIGHT;
  const rect = (x, y, w, h, style) => `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${Math.max(w, .4).toFixed(1)}" `
    + `height="${Math.max(h, 0).toFixed(1)}" class="${style}"/>`;
  const line = (x, y, x2, y2) => `<path d="M${x} ${y}L${x2} ${y2}" class="line axis"/>`;
  const text = (x, y, told, anchor) => `<text x="${x}" y="${y}" text-anchor="${anchor}">${told}</text>`;
  const svg = (height, told, parts) => `<svg role="img" aria-label="${told}" viewBox="0 0 ${W} ${height}">${parts.join("")}</svg>`;
  const [first, last] = found.bins, tall = found.counts.map(count => Math.log10(1 + count)), top = Math.max(1, ...tall);
  const x = value => LEFT + (value - first) / (last - first) * plotWidth, floor = 180 - BOTTOM, step = plotWidth / tall.length;
  const above = tall.map((v, i) => rect(LEFT + i * step, floor - v / top * (floor - 28), step - 1, v / top * (floor - 28), "k0"));
  for (const end of found.grid) above.push(line(x(end), 28, x(end), floor), text(x(end), floor + 13, end, "middle"));
  above.push(line(LEFT, floor, W - RIGHT, floor), text(W / 2, 176, "steps of the grid", "middle"));
  const low = Math.min(found.grid[0], ...found.low), high = Math.max(found.grid[1], ...found.high);
  const y = value => 136 - (value - low) / (high - low) * 126, width = plotWidth / found.low.length;
  const below = found.low.map((v, i) => rect(LEFT + i * width, y(found.high[i]), .8 * width, Math.max(1, y(v) - y(found.high[i])), "k1"));
  for (const end of found.grid) below.push(line(LEFT, y(end), W - RIGHT, y(end)), text(LEFT - 6, y(end) + 4, end, "end"));
  below.push(text(W / 2, 166, `${found.channels} channels`, "middle"));
  return svg(180, "Histogram of the chosen tensor", above) + svg(170, "Span of each of its channels", below);
}

function explorer(form) {
  const entries = JSON.parse(form.querySelector("script").textContent), select = form.querySelector("select");
  select.append(...entries.map((entry, i) => new Option(entry.name, i)));
  const show = () => {
    const found = entries[select.value];
    form.querySelector(".wide").innerHTML = valuesDrawing(found);
    form.querySelector("figcaption").textContent = `${found.name}: one step is ${found.step.toPrecision(4)}; values from `
      + `${Math.min(...found.low)} to ${Math.max(...found.high)} steps, grid ${found.grid[0]} to ${found.grid[1]}.`;
  };
  select.addEventListener("change", show);
  form.hidden = false;
  show();
}

document.querySelectorAll("form.explorer").forEach(explorer);
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("form.sliders").forEach(sliders);
chooser();
