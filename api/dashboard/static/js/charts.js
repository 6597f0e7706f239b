// Line charts that grow: hover, zoom by dragging, an axis of steps or of time, colours of the theme that is on.
import { describeFigure, describeSeconds } from "./words.js";

const HEIGHT = 220, LARGE_HEIGHT = 300;
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

export function colourOf(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

/**
 * `series`: [{label, colour, dash?, points?}]; `limits` gives the ends of the vertical axis for the lowest and highest
 * value, `steps` the distances that its ticks may have.
 */
export class Chart {
  constructor(box, { series, say = describeFigure, limits = null, steps = undefined }) {
    this.box = box;
    this.series = series;
    this.say = say;
    this.limits = limits;
    this.steps = steps;
    this.axis = "step";
    this.rows = new Map();
    this.began = 0;
    this.plot = null;
    this.due = false;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
  }

  size() {
    const inner = this.box.clientWidth - 16;
    return { width: Math.max(inner, 120), height: this.box.classList.contains("large") ? LARGE_HEIGHT - 24 : HEIGHT - 16 };
  }

  /** A step that is reported again, by a later attempt, replaces what was there. */
  add(key, step, seconds, column, value) {
    const row = this.rows.get(key) ?? { step, seconds, values: Array(this.series.length).fill(null) };
    row.values[column] = value;
    row.seconds = seconds;
    this.rows.set(key, row);
    this.schedule();
  }

  setAxis(axis) {
    this.axis = axis;
    this.rebuild();
  }

  schedule() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
    });
  }

  data() {
    const rows = [...this.rows.values()].sort((a, b) => a[this.axisField()] - b[this.axisField()]);
    const x = rows.map((row) => row[this.axisField()]);
    return [x, ...this.series.map((_, column) => rows.map((row) => row.values[column]))];
  }

  axisField() {
    return this.axis === "step" ? "step" : "seconds";
  }

  draw() {
    if (this.rows.size === 0) return;
    const data = this.data();
    if (this.plot === null) {
      this.box.querySelector(".waiting-text")?.remove();
      this.plot = new uPlot(this.options(), data, this.box);
      return;
    }
    const { min, max } = this.plot.scales.x;
    const previous = this.plot.data[0];
    const zoomed = previous.length > 1 && (min > previous[0] || max < previous[previous.length - 1]);
    this.plot.setData(data, !zoomed);
    if (zoomed) this.plot.redraw();
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.draw();
  }

  options() {
    const muted = colourOf("muted"), line = colourOf("line");
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "11px system-ui, sans-serif" };
    const sayX = this.axis === "step" ? (value) => value.toLocaleString("en") : describeSeconds;
    return {
      ...this.size(),
      padding: [12, 12, 0, 0],
      cursor: { drag: { x: true, y: false, uni: 20 }, focus: { prox: 24 }, points: { size: 7 } },
      scales: { x: { time: false, range: this.rows.size < 2 ? (u, low, high) => [low - 1, high + 1] : undefined }, y: { range: (u, low, high) => this.range(low, high) } },
      legend: { live: true },
      axes: [
        { ...axis, space: 56, values: (u, splits) => splits.map((value) => (Number.isInteger(value) || this.axis !== "step" ? sayX(value) : "")) },
        { ...axis, size: 62, incrs: this.steps, values: (u, splits) => splits.map((value) => (value == null ? "" : this.say(value))) },
      ],
      series: [
        { label: this.axis === "step" ? "step" : "after", value: (u, value) => (value == null ? "–" : sayX(value)) },
        ...this.series.map((one) => ({
          label: one.label,
          stroke: colourOf(one.colour),
          width: one.width ?? 1.75,
          dash: one.dash,
          spanGaps: true,
          points: { show: one.points ?? this.rows.size < 3, size: 5, fill: colourOf(one.colour) },
          value: (u, value) => this.say(value),
        })),
      ],
    };
  }

  range(low, high) {
    if (low == null) return [0, 1];
    const [floor, ceiling] = this.limits ? this.limits(low, high) : [low, high];
    const room = (ceiling - floor || Math.abs(ceiling) || 1) * 0.08;
    return [this.limits ? Math.max(0, floor) : floor - room, ceiling + room];
  }
}

/** The buttons beside a heading that choose what runs along the bottom. */
export function onAxis(group, tell) {
  if (!group) return;
  group.hidden = false;
  group.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    for (const button of group.children) button.setAttribute("aria-pressed", String(button === chosen));
    tell(chosen.value);
  });
}
