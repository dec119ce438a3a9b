// Small charts as SVG paths. Pure: points in, the text of a path out. A chart is WIDTH by HEIGHT units and stretched by CSS,
// its newest point at the right edge.

export const WIDTH = 300;
export const HEIGHT = 60;

/** So much stays free above and below the line, that its stroke is not cut. */
const MARGIN = 1.5;

/** The least round number that is not below the value, near enough to it that the chart fills its place. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  // A tolerance for what floating point makes of exact steps.
  const step = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((factor) => value <= factor * power * (1 + 1e-9));
  return step * power;
}

/** A scale from 0 to `most`: where on the chart a value is, from 0 (bottom) to 1 (top). */
export const linear = (most) => (value) => Math.min(value / most, 1);

/** A logarithmic scale between two bounds, for times; what is beyond them is drawn at the edge. */
export const logarithmic = (least, most) => (value) => {
  if (value <= least) return 0;
  return Math.min(Math.log(value / least) / Math.log(most / least), 1);
};

/** The powers of ten around all values; a whole decade at least. `most` stands for Infinity. */
export function decades(values, most) {
  const finite = values.filter((value) => value !== null && value > 0).map((value) => Math.min(value, most));
  if (finite.length === 0) return [100, 10_000];
  const least = 10 ** Math.floor(Math.log10(Math.min(...finite)));
  const top = 10 ** Math.ceil(Math.log10(Math.max(...finite)));
  return [least, Math.max(top, least * 10)];
}

/**
 * The path of a line through points, with gaps where a value is null. A point between two gaps becomes a dot.
 * @param {{ at: number, value: number | null }[]} points in the order of their time, `at` in ms
 * @param {{ now: number, length: number, scale: (value: number) => number }} frame the newest moment, how many ms the chart
 *   is wide, and where a value is
 */
export function line(points, frame) {
  return runs(points, frame)
    .map((run) => {
      const [first, ...rest] = run;
      const tail = rest.length === 0 ? "h0.01" : rest.map(([x, y]) => `L${x} ${y}`).join("");
      return `M${first[0]} ${first[1]}${tail}`;
    })
    .join("");
}

/** The area between that line and the bottom. */
export function area(points, frame) {
  return runs(points, frame)
    .filter((run) => run.length > 1)
    .map((run) => {
      const corners = run.map(([x, y]) => `L${x} ${y}`).join("");
      return `M${run[0][0]} ${HEIGHT}${corners}L${run.at(-1)[0]} ${HEIGHT}Z`;
    })
    .join("");
}

/** The points on the chart, in runs without a gap. What is older than the chart is wide is left out. */
function runs(points, { now, length, scale }) {
  const found = [];
  let run = [];
  for (const { at, value } of points) {
    const x = WIDTH * (1 - (now - at) / length);
    if (value === null || x < 0) {
      if (run.length > 0) found.push(run);
      run = [];
      continue;
    }
    const y = HEIGHT - MARGIN - scale(value) * (HEIGHT - 2 * MARGIN);
    run.push([round(x), round(y)]);
  }
  if (run.length > 0) found.push(run);
  return found;
}

const round = (value) => Math.round(value * 10) / 10;
