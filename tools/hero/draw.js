// The pictures: numbers in, SVG text out. Both are 440 × 264 units.
const WIDE = 440, HIGH = 264, SCALE = 489, LEFT = 0.5, TOP = 0.665, RADIUS = 0.13;
const at = ([x, y]) => [(x - LEFT) * SCALE, (TOP - y) * SCALE];
const tenth = (x) => +x.toFixed(1);
const point = (p) => `${tenth(p[0])} ${tenth(p[1])}`;
const line = (ps, more) => `<path d="M${ps.map(point).join("L")}" fill="none" ${more}/>`;
const shape = (ps, more) => `<path d="M${ps.map(point).join("L")}z" ${more}/>`;
const disc = (p, r, more) =>
  `<circle cx="${tenth(p[0])}" cy="${tenth(p[1])}" r="${r}" ${more}/>`;
const C = 'stroke="var(--c)"', INK = 'stroke="currentColor"';
const circle = [...Array(96)].map((_, k) => [Math.cos((k * Math.PI) / 48), Math.sin((k * Math.PI) / 48)]);
function arrow(p, q, more, fill, head) {
  const d = hypot(q[0] - p[0], q[1] - p[1]);
  if (d < 2) return disc(p, 3, `fill="${fill}"`);
  const e = min(head, 0.6 * d), ux = (q[0] - p[0]) / d, uy = (q[1] - p[1]) / d;
  const b = [q[0] - e * ux, q[1] - e * uy], k = 0.42 * e;
  const tip = [q, [b[0] - k * uy, b[1] + k * ux], [b[0] + k * uy, b[1] - k * ux]];
  return line([p, b], more) + shape(tip, `fill="${fill}"`);
}
const dashed = 'stroke-width="2" stroke-dasharray="5 4"';
const dotted = 'stroke-width="1.3" stroke-dasharray="1.5 4" stroke-linecap="round"';
const number = (x, digits = 2) =>
  (x.toFixed(digits) * 1).toFixed(digits).replace("-", "−");

// Labels: each takes the first place around its point that lies in the picture and
// on no earlier label; one that finds none is left out (the caption has the numbers).
function labels(size) {
  const taken = [];
  const free = (b) =>
    b[0] >= 3 && b[1] >= 3 && b[2] <= WIDE - 3 && b[3] <= HIGH - 3 &&
    taken.every((t) => b[2] < t[0] || b[0] > t[2] || b[3] < t[1] || b[1] > t[3]);
  const box = (x, y, w) => [x - w / 2 - 2, y - 0.95 * size, x + w / 2 + 2, y + 0.3 * size];
  const put = (p, text, kind = "", first = 0) => {
    const w = text.length * size * (kind === "strong" ? 0.64 : 0.57), out = w / 2 + 11, h = 0.35 * size;
    const places = [[out, h], [-out, h], [0, -13], [0, size + 11], [out, -13], [-out, -13],
      [out, size + 8], [-out, size + 8], [out + 12, -26], [-out - 12, -26], [0, 44], [0, -34]];
    for (const [dx, dy] of [places[first], ...places]) {
      const x = p[0] + dx, y = p[1] + dy, b = box(x, y, w);
      if (!free(b)) continue;
      taken.push(b);
      return `<text class="${kind}" x="${tenth(x)}" y="${tenth(y)}">${text}</text>`;
    }
    return "";
  };
  put.keep = (p, r) => taken.push([p[0] - r, p[1] - r, p[0] + r, p[1] + r]);
  return put;
}

const level = (c) => [...Array(45)].map((_, k) => (k + 2) / 60).map((y) => at([sqrt(c + y * y), y]));
const land = [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.15, 1.3, 1.45]
  .map((c) => level(c).concat([c < 1 ? [-9, -9] : [WIDE + 9, -9], [c < 1 ? -9 : WIDE + 9, HIGH + 9]]))
  .map((ps) => shape(ps, 'fill="currentColor" fill-opacity=".035"')).join("") +
  line(level(1), INK + ' stroke-opacity=".55" stroke-width="2"');

// Left: the plane of the two weights, the ball, the step and the paths.
function plane(now, w, t, size, moved) {
  const put = labels(size), g = gradient(w), { unit } = steepest(g, t), down = hypot(...g);
  const home = at(w), path = (now.name === "Prodigy" ? prodigy(w).path : descend(w, t)).map(at);
  const end = path.at(-1), ghost = descend(w, 0.5).map(at);
  put.keep(home, 13);
  put.keep(end, 6);
  for (const p of path) put.keep(p, 2);
  let o = land, words = "";
  if (now.ruler !== "l2") {
    o += line(ghost, INK + ' stroke-opacity=".5" stroke-width="1.6"') +
      disc(ghost.at(-1), 3.5, 'fill="currentColor" fill-opacity=".65"');
    put.keep(ghost.at(-1), 4);
    for (const p of ghost) put.keep(p, 2);
  }
  let memory = null;
  if (now.name === "Prodigy") {
    o += balls(w, put, (s) => (words += s));
  } else {
    const ball = circle.map((v) => at(minus(w, v, RADIUS / length(v, t))));
    o += shape(ball, `fill="var(--c)" fill-opacity=".16" ${C} stroke-width="1.5"`);
    if (down > 1e-6) {
      const tip = minus(w, unit, RADIUS), across = [-g[1] / down, g[0] / down];
      o += line([at(minus(tip, across, 0.14)), at(minus(tip, across, -0.14))], INK + ' stroke-opacity=".8" ' + dotted);
      if (now.ruler !== "l2") o += arrow(home, at(minus(w, g, RADIUS / down)), INK + ' stroke-width="1.8"', "currentColor", 9);
    }
    memory = now.memory && now.memory(w).path.map(at);
    if (memory) {
      o += line(memory, C + " " + dashed) + disc(memory.at(-1), 5, `fill="var(--paper)" ${C} stroke-width="2"`);
      put.keep(memory.at(-1), 6);
      for (const p of memory) put.keep(p, 2);
    }
    o += line(path, C + ' stroke-width="3" stroke-linejoin="round"');
    if (down > 1e-6) o += arrow(home, at(minus(w, unit, RADIUS)), C + ' stroke-width="3.5"', "var(--c)", 13);
  }
  o += disc(end, 5, 'fill="var(--c)"');
  words += put(end, now.name, "strong");
  if (memory) words += put(memory.at(-1), "with memory");
  if (now.ruler !== "l2") words += put(ghost.at(-1), "SGD", "quiet");
  if (!moved) words += put(home, "drag the start");
  const shore = [0.17, 0.64, 0.22, 0.6, 0.3].map((y) => at([sqrt(1 + y * y), y]));
  for (const p of shore) if (!words.includes("det")) words += put(p, "det W = 1", "quiet");
  return o + words;
}
function balls(w, put, say) {
  const { path, steps } = prodigy(w), g = gradient(w);
  const turn = path.findIndex((p) => gradient(p).some((x, i) => x * g[i] < 0));
  let o = "";
  path.slice(0, turn < 0 ? 14 : turn).forEach((p, k) => {
    const z = at(p), r = steps[k] * SCALE;
    const corners = [[-r, -r], [r, -r], [r, r], [-r, r]].map(([x, y]) => [z[0] + x, z[1] + y]);
    o += shape(corners, `fill="var(--c)" fill-opacity=".09" ${C} stroke-width="1.2"`);
    if (r > 15) say(put([z[0] - r, z[1] + r], number(steps[k] / RATES.Prodigy, 0), "quiet"));
  });
  return o + line(path.map(at), C + ' stroke-width="2"') +
    path.map((p) => disc(at(p), 2.6, 'fill="var(--c)"')).join("");
}

// Right, for rulers of the whole matrix: what gradient and step make of the circle.
function stretch(now, w, size) {
  const put = labels(size), g = gradient(w).map((x) => -x), o0 = [WIDE / 2, HIGH / 2];
  const t = now.t, step = now.t === 1 ? polar(g) : steepest(g, t).unit;
  const image = (s, [x, y]) => [o0[0] + 100 * (s[0] * x + s[1] * y), o0[1] - 100 * (s[1] * x + s[0] * y)];
  const blob = (s, more) => shape(circle.map((v) => image(s, v)), more);
  const far = (s, k) => image(s, [Math.SQRT1_2, k * Math.SQRT1_2]);
  let o = disc(o0, 100, 'fill="none" ' + INK + ' stroke-opacity=".3"') +
    blob(g, 'fill="currentColor" fill-opacity=".1" ' + INK + ' stroke-opacity=".65" stroke-width="1.5"') +
    blob(step, `fill="var(--c)" fill-opacity=".16" ${C} stroke-width="2.5"`);
  if (now.name === "Muon") o += blob(products(g), `fill="none" ${C} ${dashed}`);
  for (const k of [1, -1])
    o += line([o0, far(g, k)], INK + ' stroke-width="1.8"') +
      arrow(o0, far(step, k), C + ' stroke-width="2.5"', "var(--c)", 11);
  put.keep(o0, 20);
  const steepestWay = abs(g[0] + g[1]) >= abs(g[0] - g[1]) ? 1 : -1;
  const words = put(far(step, steepestWay), "step", "strong") +
    put(far(g, steepestWay), "gradient", "quiet") + put([o0[0] - 100, o0[1]], "circle", "quiet", 1);
  return o + words;
}

// Right, for rulers of single entries: each step over time.
function time(now, w, size) {
  const put = labels(size), left = 52, right = WIDE - 14, top = 34, low = HIGH - 38;
  const word = (x, y, s, how = "middle") => `<text x="${x}" y="${y}" style="text-anchor:${how}" class="quiet">${s}</text>`;
  const grid = (y) => line([[left, y], [right, y]], INK + ' stroke-opacity=".25"');
  let o = "", words = word((left + right) / 2, HIGH - 11, "step number");
  if (now.name === "Prodigy") {
    const ds = prodigy(w).steps, deepest = Math.log2(max(...ds, 0.24) / RATES.Prodigy), n = ds.length;
    const X = (k) => left + ((k + 0.5) / n) * (right - left);
    const Y = (d) => low - 8 - (Math.log2(d / RATES.Prodigy) / deepest) * (low - top - 12);
    words += word(left - 40, 20, "length d, in units of d₀", "start");
    for (const k of [1, 2, 4, 8, 16, 32]) if (Y(k * RATES.Prodigy) >= top - 1) {
      o += grid(Y(k * RATES.Prodigy));
      words += word(left - 8, Y(k * RATES.Prodigy) + 5, k, "end");
    }
    ds.forEach((d, k) => {
      o += line([[X(k), low], [X(k), Y(d)]], C + ' stroke-width="7" stroke-opacity=".45"') + disc([X(k), Y(d)], 3.5, 'fill="var(--c)"');
    });
    return o + words;
  }
  const { steps } = now.memory(w), X = (k) => left + (k / (STEPS - 1)) * (right - left);
  const Y = (s) => (top + low) / 2 - (s / 1.25) * ((low - top) / 2);
  words += word(left - 40, 20, "step of each weight ÷ learning rate", "start");
  for (const s of [-1, 0, 1]) {
    o += grid(Y(s));
    words += word(left - 8, Y(s) + 5, number(s, 0), "end");
    put.keep([left - 14, Y(s)], 12);
  }
  put.keep([left + 100, 20], 0.6 * size);
  steps.forEach((s, k) => [0, 1].forEach((i) => put.keep([X(k), Y(-s[i])], 2)));
  [0, 1].forEach((i) => {
    o += line(steps.map((s, k) => [X(k), Y(-s[i])]), C + ' stroke-width="2.5" stroke-linejoin="round"' + (i ? ' stroke-dasharray="2 3"' : ""));
    words += put([X(6), Y(-steps[6][i])], i ? "y, beside it" : "x, on the diagonal");
  });
  return o + words;
}
