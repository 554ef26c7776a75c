for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const key = (row, k) => row.cells[k].dataset.key ?? row.cells[k].textContent.trim();
  heads.forEach((head, k) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row, at) => [key(row, k), at, row]);
    rows.sort(([a, i], [b, j]) => {
      if ((a === "") !== (b === "")) return a === "" ? 1 : -1;
      const x = Number(a), y = Number(b);
      const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
      return (down ? -order : order) || i - j;
    });
    body.append(...rows.map(([, , row]) => row));
  }));
}

// On paper nothing can be unfolded.
const unfolded = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; unfolded.push(part); }
});
addEventListener("afterprint", () => { for (const part of unfolded.splice(0)) part.open = false; });

// Where the pointer is over a plot, the values of its curves there: read from their paths, which the axes scale.
const box = document.createElement("div");
box.className = "tip-box";
box.hidden = true;
document.body.append(box);
const number = (v) => v.toLocaleString("en", { maximumSignificantDigits: 3 });
const scale = (plot, axis) => {
  const [low, high, kind] = plot.dataset[axis].split(" ");
  const words = plot.dataset[`${axis}Words`], a = Number(low), b = Number(high);
  return {
    at: (share) => (kind === "log" ? a * (b / a) ** share : a + (b - a) * share),
    say: (v) => (kind === "share" ? `${number(v * 100)} %` : number(v)),
    words,
  };
};
const points = (path) => {
  const all = path.getAttribute("d").slice(1).replace("z", "").split("L").map((p) => p.split(" ").map(Number));
  if (!path.getAttribute("d").endsWith("z")) return [all, null];
  const half = all.length / 2;
  return [all.slice(0, half), all.slice(half).reverse()];
};
const height = (line, x) => {
  const k = line.findLastIndex((p) => p[0] <= x);
  if (k < 0 || (k === line.length - 1 && x > line[k][0])) return null;
  const [a, b] = [line[k], line[Math.min(k + 1, line.length - 1)]];
  return b[0] === a[0] ? a[1] : a[1] + ((b[1] - a[1]) * (x - a[0])) / (b[0] - a[0]);
};
for (const plot of document.querySelectorAll("svg.plot[data-x]")) {
  const [xs, ys] = [scale(plot, "x"), scale(plot, "y")];
  const curves = [...plot.querySelectorAll("path[data-name]")].map((path) => [path.dataset.name, ...points(path)]);
  const tall = Number(plot.querySelector("svg[viewBox]").getAttribute("height"));
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y2", tall);
  const hide = () => { box.hidden = true; cursor.remove(); };
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("pointermove", (event) => {
    const frame = plot.getBoundingClientRect();
    const share = (event.clientX - frame.left) / frame.width;
    if (share < 0 || share > 1) return hide();
    const value = (y) => ys.at(1 - y / tall);
    const told = curves.flatMap(([name, line, base]) => {
      const y = height(line, share * 1000);
      if (y === null) return [];
      return `${name}: ${ys.say(base ? value(y) - value(height(base, share * 1000)) : value(y))}`;
    });
    if (!told.length) return hide();
    box.textContent = [`${xs.words}: ${xs.say(xs.at(share))}`, ...told].join("\n");
    box.hidden = false;
    const left = Math.min(event.pageX + 14, scrollX + document.documentElement.clientWidth - box.offsetWidth - 8);
    box.style.left = `${Math.max(scrollX + 4, left)}px`;
    box.style.top = `${event.pageY + 16}px`;
    cursor.setAttribute("x1", `${100 * share}%`);
    cursor.setAttribute("x2", `${100 * share}%`);
    plot.append(cursor);
  });
}

// A figure as a file of its own: each plot with the style of this page, at the size in which it is shown.
for (const take of document.querySelectorAll("figure .take")) {
  const figure = take.closest("figure");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "SVG";
  button.addEventListener("click", () => {
    const ns = "http://www.w3.org/2000/svg";
    const whole = document.createElementNS(ns, "svg");
    const width = figure.clientWidth;
    let top = 10;
    const words = (text, x, size) => {
      const line = document.createElementNS(ns, "text");
      line.textContent = text;
      line.setAttribute("x", x);
      line.setAttribute("y", top + size);
      line.setAttribute("font-size", size);
      line.setAttribute("fill", "currentColor");
      whole.append(line);
    };
    words(figure.querySelector("h3").textContent, 10, 15);
    top += 26;
    let at = 10;
    for (const entry of figure.querySelectorAll(".legend li")) {
      const swatch = entry.querySelector("svg").cloneNode(true);
      const label = entry.textContent.trim();
      if (at + 50 + 7 * label.length > width) { at = 10; top += 18; }
      swatch.setAttribute("x", at);
      swatch.setAttribute("y", top);
      whole.append(swatch);
      words(label, at + 32, 11);
      at += 50 + 7 * label.length;
    }
    top += 30;
    for (const panel of figure.querySelectorAll(".panel")) {
      const title = panel.querySelector("h4");
      if (title) { words(title.textContent, 10, 12); top += 20; }
      const plot = panel.querySelector("svg.plot"), frame = plot.getBoundingClientRect();
      const copy = plot.cloneNode(true);
      copy.setAttribute("x", 70);
      copy.setAttribute("y", top + 14);
      copy.setAttribute("width", frame.width);
      whole.append(copy);
      top += frame.height + 36;
    }
    const style = document.createElementNS(ns, "style");
    style.textContent = `${document.querySelector("style").textContent} :root { background: var(--paper); color: var(--ink); }`;
    whole.prepend(style, document.querySelector(".patterns defs").cloneNode(true));
    whole.setAttribute("xmlns", ns);
    whole.setAttribute("width", width + 90);
    whole.setAttribute("height", top);
    whole.setAttribute("font-family", "sans-serif");
    const link = document.createElement("a");
    link.download = `${figure.id}.svg`;
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(whole)], { type: "image/svg+xml" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  take.append(" · ", button);
}
