// Figures in words, as the server writes them (api/dashboard/formats.py).
const AGES = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"], [Infinity, 86400, "d"]];
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function describeAge(seconds) {
  const size = Math.abs(seconds);
  if (size < 5) return "now";
  const [, unitSeconds, unit] = AGES.find(([limit]) => size < limit);
  const text = `${Math.round(size / unitSeconds)} ${unit}`;
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}

export function describeBytes(bytes) {
  let value = bytes, unit = 0;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  return unit === 0 || Math.abs(value) >= 100 ? `${Math.round(value)} ${UNITS[unit]}` : `${value.toFixed(1)} ${UNITS[unit]}`;
}

export function describeFigure(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

export function describeSeconds(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}
