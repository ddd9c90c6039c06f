// Draws a chart when it is first seen: forty runs open as fast as one.
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const config = {responsive: true, displayModeBar: false};
const waiting = new Set(document.querySelectorAll(".chart"));
const draw = (element) => {
  if (!waiting.delete(element)) return;
  const figure = figures[element.id];
  Plotly.newPlot(element, figure.data, figure.layout, config);
};
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { sight.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "600px"});
for (const element of waiting) sight.observe(element);
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) { target.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => {
  for (const run of document.querySelectorAll("details")) run.open = true;
  for (const element of waiting) draw(element);
});
// The sweet spot goes where the limit puts it: the most throughput whose upper bound keeps it.
const movable = document.getElementById("movable");
if (movable) {
  const {limit, top, step, rows, of, percentile} = JSON.parse(movable.textContent);
  const number = document.getElementById("limit"), range = document.getElementById("limit-range");
  const answer = document.getElementById("spot-answer");
  const choose = (limit) => rows.filter((row) => row.eligible && row.high <= limit)
    .reduce((best, row) => best && best.rate >= row.rate ? best : row, null);
  const move = (limit) => {
    const best = choose(limit), kept = rows.filter((row) => row.eligible && row.high <= limit).length;
    for (const id of ["spot", "heat"]) {
      const figure = figures[id];
      if (!figure) continue;
      const shape = figure.layout.shapes[0];
      if (id === "spot") {
        const mark = figure.data.find((trace) => trace.name === "sweet spot");
        [mark.x, mark.y] = best ? [[best.spot[0]], [best.spot[1]]] : [[], []];
        Object.assign(shape, {y0: limit, y1: limit, visible: true});
      } else Object.assign(shape, best?.heat, {visible: Boolean(best?.heat.x1)});
      const element = document.getElementById(id);
      if (!waiting.has(element)) Plotly.react(element, figure.data, figure.layout, config);
    }
    answer.textContent = best
      ? `Sweet spot: ${best.name}: ${best.texts[0]} inferences/s, ${percentile} ${best.texts[1]} ms (upper bound ${best.texts[2]} ms). ` +
        `Of ${of} configurations ${kept} surely keep ${percentile} within ${limit} ms.`
      : `None of ${of} configurations surely keeps ${percentile} within ${limit} ms.`;
  };
  Object.assign(range, {max: top, step, value: limit ?? top});
  number.value = limit ?? top;
  range.addEventListener("input", () => { number.value = range.value; move(Number(range.value)); });
  number.addEventListener("input", () => { if (number.value !== "") { range.value = number.value; move(Number(number.value)); } });
}
