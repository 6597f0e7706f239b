// Several jobs in one chart; a running one grows.
import { Chart, onAxis } from "./charts.js";
import { follow } from "./live.js";

const jobs = [...document.querySelectorAll("[data-compared]")].map((cell) => ({
  id: cell.dataset.compared,
  name: cell.dataset.name,
  began: Number(cell.dataset.began),
  metrics: [],
}));
const figure = document.getElementById("figure");
const box = document.querySelector("[data-compare-chart]");
const HUES = 8;
let chart = build();

function build() {
  const series = jobs.map((job, index) => ({ label: job.name, colour: `hue-${index % HUES}`, points: figure.value === "eval_loss" }));
  return new Chart(box, { series });
}

function show(job, metric) {
  const value = metric.values[figure.value];
  if (value === undefined) return;
  const column = jobs.indexOf(job);
  const seconds = Math.max(0, metric.at - job.began);
  // By steps the jobs share rows; by time each has its own.
  const key = chart.axis === "step" ? metric.step : `${column}:${metric.step}`;
  chart.add(key, metric.step, seconds, column, value);
}

function redraw(axis = chart.axis) {
  chart.plot?.destroy();
  chart.plot = null;
  chart.rows.clear();
  chart.axis = axis;
  for (const job of jobs) for (const metric of job.metrics) show(job, metric);
}

figure.addEventListener("change", () => {
  chart.plot?.destroy();
  const axis = chart.axis;
  chart = build();
  redraw(axis);
});
onAxis(document.querySelector("[data-axis]"), redraw);
for (const job of jobs) {
  follow(`/v1/fine_tuning/jobs/${encodeURIComponent(job.id)}/metrics`, {
    event: "metric",
    onRow(metric) {
      job.metrics.push(metric);
      show(job, metric);
    },
  });
}
