// The page of one job: charts, log and events as they come; its head is fetched anew when something has changed.
import { refreshTimes } from "./app.js";
import { Chart, onAxis } from "./charts.js";
import { follow } from "./live.js";
import { LogView, plain } from "./logs.js";
import { describeBytes, describeFigure } from "./words.js";

const HEAD_MILLISECONDS = 400, CALM_MILLISECONDS = 5000, MOST_EVENTS = 500;
const page = document.getElementById("job");
const api = `/v1/fine_tuning/jobs/${encodeURIComponent(page.dataset.job)}`;
const predictedBytes = Number(page.dataset.predictedBytes) || null;
let final = page.dataset.final === "yes";

// ---- charts -----------------------------------------------------------------------------------------------------
const KINDS = {
  loss: { series: [{ label: "training", colour: "hue-0" }, { label: "validation", colour: "hue-2", points: true }], columns: { train_loss: 0, eval_loss: 1 } },
  learning_rate: { series: [{ label: "learning rate", colour: "hue-1" }], columns: { learning_rate: 0 } },
  tokens_per_second: { series: [{ label: "tokens/s", colour: "hue-4" }], columns: { tokens_per_second: 0 }, limits: (low, high) => [0, high] },
  grad_norm: { series: [{ label: "gradient norm", colour: "hue-3" }], columns: { grad_norm: 0 } },
  memory: {
    series: [{ label: "measured peak", colour: "hue-6" }, { label: "predicted, with margin", colour: "faint", dash: [6, 4] }],
    columns: { peak_device_bytes: 0 },
    say: (value) => (value == null ? "–" : describeBytes(value)),
    limits: (low, high) => [0, high],
    steps: Array.from({ length: 24 }, (_, power) => 2 ** (20 + power)),
  },
};
const charts = new Map();
document.querySelector("[data-charts]").hidden = false;
for (const figure of document.querySelectorAll("[data-chart]")) {
  const kind = KINDS[figure.dataset.chart];
  charts.set(figure.dataset.chart, { chart: new Chart(figure.querySelector(".chart"), kind), figure, kind });
}
onAxis(document.querySelector("[data-axis]"), (axis) => charts.forEach(({ chart }) => chart.setAxis(axis)));

let began = Number(page.dataset.began) || null;
function showMetric(metric) {
  began ??= metric.at;
  for (const { chart, figure, kind } of charts.values()) {
    for (const [name, column] of Object.entries(kind.columns)) {
      const value = metric.values[name];
      if (value === undefined) continue;
      figure.hidden = false;
      chart.add(metric.step, metric.step, Math.max(0, metric.at - began), column, value);
      if (name === "peak_device_bytes" && predictedBytes) chart.add(metric.step, metric.step, Math.max(0, metric.at - began), 1, predictedBytes);
      if (column === 0) figure.querySelector("[data-last]").textContent = (kind.say ?? describeFigure)(value);
    }
  }
  refreshHead();
}

// ---- the head ---------------------------------------------------------------------------------------------------
let headDue = null;
function refreshHead() {
  if (final || headDue !== null) return;
  headDue = setTimeout(async () => {
    await htmx.ajax("GET", `/jobs/${encodeURIComponent(page.dataset.job)}/head`, { target: "#head", swap: "innerHTML" });
    headDue = null;
  }, HEAD_MILLISECONDS);
}
if (!final) setInterval(() => document.hidden || refreshHead(), CALM_MILLISECONDS);

function end() {
  if (final) return;
  final = true;
  location.reload(); // The adapter, the checkpoints and the bill are there now.
}

// ---- events -----------------------------------------------------------------------------------------------------
const events = document.querySelector("[data-events]");
function showEvent(event) {
  if (event.type === "metrics") return; // It is in the charts.
  const item = document.createElement("li");
  item.className = `${["warn", "error"].includes(event.level) ? event.level : "info"}`;
  const text = document.createElement("p");
  text.textContent = plain(event.message);
  const time = document.createElement("time");
  time.dateTime = new Date(event.created_at * 1000).toISOString().replace(/\.\d+/, "");
  item.append(text, time);
  events.prepend(item);
  while (events.children.length > MOST_EVENTS) events.lastElementChild.remove();
  refreshTimes(item);
  refreshHead();
}

follow(`${api}/metrics`, { event: "metric", onRow: showMetric });
if (!final) follow(`${api}/events`, { event: "event", after: events.dataset.last || null, onRow: showEvent, onEnd: end });

// ---- the log ----------------------------------------------------------------------------------------------------
const part = document.getElementById("log-part");
part.querySelector("[data-log-tools]").hidden = false;
new LogView(part.querySelector("[data-log]"), `${api}/logs`, {
  state: part.querySelector("[data-log-state]"),
  search: part.querySelector("#log-search"),
  level: part.querySelector("#log-level"),
  followButton: part.querySelector("[data-log-follow]"),
  startButton: part.querySelector("[data-log-start]"),
  final,
});
