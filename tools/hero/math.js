// The mathematics of the hero, tested against the package (tests/book/test_hero.py).
// W = [[x, y], [y, x]] is written [x, y]; f(W) = (det W - 1)² / 2 keeps that form,
// and so does every step below. Eigenvalues are x + y and x - y.
const { abs, sign, sqrt, hypot, min, max } = Math;
const det = ([x, y]) => x * x - y * y;
const gradient = ([x, y]) => [(det([x, y]) - 1) * x, -(det([x, y]) - 1) * y];
const spectrum = ([p, q]) => [p + q, p - q];
const matrix = ([a, b]) => [(a + b) / 2, (a - b) / 2];
const onSpectrum = (g, h) => matrix(spectrum(g).map(h));
const minus = (w, s, rate) => [w[0] - rate * s[0], w[1] - rate * s[1]];
const mix = (m, g, share) => m.map((x, i) => x + share * (g[i] - x));

// A ruler is t: 0 the largest entry, 1/2 Frobenius (Euclid), 1 the largest singular
// value. In the plane (x, y) its ball is the ℓp ball with p = 1/t, of radius 1/c.
const inset = (t) => 2 ** (2 * t * (1 - t));
function length([x, y], t) {
  const top = max(abs(x), abs(y));
  if (!t || !top) return top;
  return inset(t) * top * (abs(x / top) ** (1 / t) + abs(y / top) ** (1 / t)) ** t;
}
function steepest(g, t) {
  const top = max(...g.map(abs));
  if (!top) return { dual: 0, unit: [0, 0] };
  if (t === 1) {
    const ties = g.filter((x) => abs(x) === top).length;
    return { dual: 2 * top, unit: g.map((x) => (abs(x) === top ? sign(x) / ties : 0)) };
  }
  const q = 1 / (1 - t), n = top * g.reduce((s, x) => s + abs(x / top) ** q, 0) ** (1 / q);
  const unit = g.map((x) => (sign(x) * (abs(x) / n) ** (q - 1)) / inset(t));
  return { dual: (2 * n) / inset(t), unit };
}

function walk(w, steps, step) {
  const path = [w];
  for (let k = 0; k < steps; k++) path.push((w = step(w, gradient(w), k)));
  return path;
}
const descend = (w, t) =>
  walk(w, 200, (w, g) => {
    const { dual, unit } = steepest(g, t);
    return minus(w, unit, 0.05 * dual);
  });

// With memory, at the defaults of the package (Shampoo with ε = 0); the rate falls
// in a line to zero.
const STEPS = 60, RATES = { Adam: 0.02, Lion: 0.012, Shampoo: 0.08, Muon: 0.015, Prodigy: 0.007 };
const falling = (rate) => (k) => rate * (1 - k / STEPS);
function remember(w, rate, direction) {
  const steps = [], path = walk(w, STEPS, (w, g, k) => {
    const s = direction(g, k);
    steps.push(s);
    return minus(w, s, falling(rate)(k));
  });
  return { path, steps };
}
function adam(w) {
  let m = [0, 0], v = [0, 0];
  return remember(w, RATES.Adam, (g, k) => {
    m = mix(m, g, 0.1);
    v = mix(v, g.map((x) => x * x), 0.001);
    const c = 1 - 0.9 ** (k + 1), e = 1 - 0.999 ** (k + 1);
    return m.map((x, i) => x / c / (sqrt(v[i] / e) + 1e-8));
  });
}
function lion(w) {
  let m = [0, 0];
  return remember(w, RATES.Lion, (g) => {
    const u = mix(m, g, 0.1);
    m = mix(m, g, 0.01);
    return u.map(sign);
  });
}
function shampoo(w) {
  let m = [0, 0], sums = [0, 0];
  return remember(w, RATES.Shampoo, (g, k) => {
    m = mix(m, g, 0.1);
    sums = spectrum(g).map((e, i) => sums[i] + e * e);
    const u = spectrum(m).map((e, i) => (sums[i] ? e / sqrt(sums[i]) : 0));
    return matrix(u).map((x) => x / (1 - 0.9 ** (k + 1)));
  });
}
const quintic = (s) => {
  for (let k = 0; k < 5; k++) s *= 3.4445 - 4.775 * s * s + 2.0315 * s ** 4;
  return s;
};
const polar = (g) => onSpectrum(g, sign);
const products = (g) => {
  const size = hypot(...spectrum(g));
  return size ? onSpectrum(g, (s) => quintic(s / size)) : [0, 0];
};
function muon(w) {
  let m = [0, 0];
  return remember(w, RATES.Muon, (g) => {
    m = mix(m, g, 0.05);
    return products(mix(g, m, 0.95));
  });
}
// Prodigy without averages: d is the largest of its estimates so far.
function prodigy(start) {
  let d = RATES.Prodigy;
  const steps = [];
  const path = walk(start, 28, (w, g, k) => {
    const { unit } = steepest(g, 0), next = minus(w, unit, d * min(1, 2 - k / 14));
    const n = abs(g[0]) + abs(g[1]);
    steps.push(d);
    if (n) d = max(d, (g[0] * (start[0] - w[0]) + g[1] * (start[1] - w[1])) / n);
    return next;
  });
  return { path, steps };
}
