"use strict";
// Dark or light: what the system says until the button is pressed.
const root = document.documentElement;
const button = document.querySelector("#theme");
const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const say = () => { button.textContent = dark() ? "Light" : "Dark"; };
button.hidden = false;
button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; say(); });
say();

// A cursor over the data of a line chart: pointer, or arrow keys, Home and End while the chart has the focus.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(svg.dataset.chart);
  const out = svg.closest("figure").querySelector(".readout");
  const stops = [...new Set(data.series.flatMap((s) => s.px))].sort((a, b) => a - b);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  line.setAttribute("class", "cursor");
  line.setAttribute("y1", 10);
  line.setAttribute("y2", svg.viewBox.baseVal.height - 34);
  let at = -1;
  const show = (i) => {
    at = Math.max(0, Math.min(stops.length - 1, i));
    line.setAttribute("x1", stops[at]);
    line.setAttribute("x2", stops[at]);
    if (!line.parentNode) svg.append(line);
    const parts = [];
    let where = "";
    for (const s of data.series) {
      const k = s.px.indexOf(stops[at]);
      if (k >= 0) { where = s.at[k]; parts.push(`${s.name} ${s.value[k]}`); }
    }
    out.textContent = `${data.label} ${where}: ${parts.join(", ")}`;
  };
  const hide = () => { line.remove(); out.textContent = ""; at = -1; };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    show(stops.reduce((best, p, i) => Math.abs(p - x) < Math.abs(stops[best] - x) ? i : best, 0));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("focus", () => show(stops.length - 1));
  svg.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: stops.length - 1 }[event.key];
    if (to !== undefined) { event.preventDefault(); show(to); }
  });
}
