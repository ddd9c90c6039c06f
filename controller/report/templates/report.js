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
