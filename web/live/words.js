// Numbers and times as the live page writes them. Pure. A dash stands for what can't be said yet.

const DASH = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A number in about three digits, and never fewer than it has before the point. */
function digits(value) {
  if (value >= 100) return whole.format(value);
  return value.toFixed(value >= 10 ? 1 : 2);
}

/** How many a second, or how many there are: 0, 0.4, 12, 12,345. */
export function count(value) {
  if (value === null || value === undefined) return DASH;
  if (value > 0 && value < 10 && !Number.isInteger(value)) return value.toFixed(1);
  return whole.format(value);
}

/** A share from 0 to 1, in percent. What is not quite all or nothing never looks like it. */
export function percent(value) {
  if (value === null || value === undefined) return DASH;
  const hundredths = value * 100;
  if (value > 0 && hundredths < 0.01) return "< 0.01 %";
  if (value < 1 && hundredths > 99.99) return "> 99.99 %";
  if (hundredths === 0 || hundredths === 100) return `${hundredths} %`;
  const places = hundredths < 1 || hundredths > 99 ? 2 : 1;
  return `${hundredths.toFixed(places)} %`;
}

/** Microseconds; `most` is the last bound of the histogram, which Infinity is above. */
export function time(us, most) {
  if (us === null || us === undefined) return DASH;
  if (us === Infinity) return `> ${time(most)}`;
  if (us < 999.5) return `${us < 10 ? us.toFixed(1) : Math.round(us)} µs`;
  if (us < 999_500) return `${digits(us / 1000)} ms`;
  return `${digits(us / 1_000_000)} s`;
}

/** Bytes in binary units. */
export function bytes(value) {
  if (value === null || value === undefined) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? left : left.toFixed(left >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** How long something has been going on: the two largest units. */
export function span(ms) {
  if (ms === null || ms === undefined || !(ms >= 0)) return DASH;
  const seconds = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  if (first === -1) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount} ${unit}`)
    .join(" ");
}
