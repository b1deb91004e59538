// What moves: a name is chosen, the start is dragged; the rest is computed anew.
const script = document.currentScript;
const figure = script ? script.closest("figure") : document.querySelector(".an-hero:not([data-on])");
const one = (s) => figure.querySelector(s), all = (s) => [...figure.querySelectorAll(s)];
const calm = matchMedia("(prefers-reduced-motion: reduce)"), narrow = matchMedia("(max-width: 40rem)");
const NAMES = JSON.parse(one("script[type='application/json']").textContent);
const RULERS = { l2: 0.5, linf: 0, spectral: 1 };
const MEMORY = { Adam: adam, Lion: lion, Shampoo: shampoo, Muon: muon };
const START = [0.8, 0.5], RANGE = [[0.62, 1.25], [0.25, 0.6]];
const state = { name: "Adam", w: START, t: 0, moved: false };
const now = () => ({ ...NAMES[state.name], name: state.name, memory: MEMORY[state.name], t: RULERS[NAMES[state.name].ruler] });
const [left, right] = all(".pics svg"), handle = one(".handle");
let timer = 0;

function draw() {
  const size = narrow.matches ? 15.5 : 13, chosen = now();
  left.innerHTML = plane(chosen, state.w, state.t, size, state.moved);
  right.innerHTML = (chosen.memory || chosen.name === "Prodigy") && chosen.t === 0
    ? time(chosen, state.w, size) : stretch(chosen, state.w, size);
  const p = at(state.w);
  handle.style.left = `${(100 * p[0]) / WIDE}%`;
  handle.style.top = `${(100 * p[1]) / HIGH}%`;
}
const pair = (v) => `(${v.map((x) => number(x)).join(", ")})`;
function say() {
  const chosen = now(), w = state.w, g = gradient(w), { dual, unit } = steepest(g, chosen.t);
  const prodigal = chosen.name === "Prodigy", path = prodigal ? prodigy(w).path : descend(w, chosen.t);
  const [first, second] = all(".pics p");
  figure.dataset.ruler = chosen.color;
  one(".say").innerHTML = `<a href="${chosen.read}"><b>${chosen.name}</b></a> ${chosen.answer}`;
  all("dd").forEach((d, i) => (d.textContent = [chosen.norm, `${chosen.dual} = ${number(dual)} here`, chosen.step][i]));
  all("code").forEach((c, i) => (c.textContent = chosen.code[i]));
  const last = chosen.memory ? `, with memory at ${pair(chosen.memory(w).path.at(-1))}` : "";
  first.innerHTML = `<b>The way.</b> Gradient ${pair(g)}, steepest step ${pair(unit.map((x) => -x))}. It ends at ${pair(path.at(-1))}${last}.`;
  second.innerHTML = `<b>The step.</b> ${about(chosen, g, unit)}`;
  handle.setAttribute("aria-valuenow", number(w[0]));
  handle.setAttribute("aria-valuetext", `x ${number(w[0])}, y ${number(w[1])}`);
}
function about(chosen, g, unit) {
  if (chosen.name === "Prodigy") return chosen.note;
  if (chosen.t === 0) return chosen.note;
  const s = (v) => spectrum(v).map((x) => number(abs(x))).sort().reverse().join(" and ");
  const after = chosen.name === "Muon" ? `${s(polar(g))}; five products make ${s(products(g))} of them (dashed)` : s(chosen.t === 1 ? polar(g) : unit);
  return `The gradient stretches two directions by ${s(g)}; the step by ${after}.`;
}
function still() {
  cancelAnimationFrame(timer);
  state.t = now().t;
  draw();
  say();
}
function choose(name) {
  state.name = name;
  say();
  if (calm.matches) return still();
  cancelAnimationFrame(timer);
  const from = state.t, to = now().t, begun = performance.now();
  const tick = (time) => {
    const x = min(1, max(0, (time - begun) / 400));
    state.t = x === 1 ? to : from + (to - from) * x * x * (3 - 2 * x);
    draw();
    if (x < 1) timer = requestAnimationFrame(tick);
  };
  timer = requestAnimationFrame(tick);
}
function move(w) {
  state.w = w.map((x, i) => min(RANGE[i][1], max(RANGE[i][0], x)));
  state.moved = true;
  one("button").hidden = false;
  still();
}
handle.addEventListener("keydown", (e) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[e.key];
  if (!way) return;
  e.preventDefault();
  move(minus(state.w, way, e.shiftKey ? -0.1 : -0.02));
});
handle.addEventListener("pointerdown", (e) => {
  e.preventDefault();
  handle.focus({ focusVisible: false });
  handle.setPointerCapture(e.pointerId);
  const from = [e.clientX, e.clientY], w = state.w, units = WIDE / SCALE / left.getBoundingClientRect().width;
  handle.onpointermove = (e) => move(minus(w, [from[0] - e.clientX, e.clientY - from[1]], units));
  handle.onpointerup = handle.onpointercancel = () => (handle.onpointermove = null);
});
const own = "an-hero-" + [...document.querySelectorAll(".an-hero")].indexOf(figure);
all("input").forEach((i) => (i.name = own + i.name.replace(/^an-hero/, "")));
all(".rulers input").forEach((i) => i.addEventListener("change", () => choose(i.value)));
all(".which input").forEach((i) => i.addEventListener("change", () => (figure.dataset.shown = i.value)));
one("button").addEventListener("click", () => {
  Object.assign(state, { w: START, moved: false });
  one("button").hidden = true;
  handle.focus();
  still();
});
narrow.addEventListener("change", draw);
state.name = (one(".rulers input:checked") || { value: "Adam" }).value;
figure.dataset.on = "";
still();
figure.hero = {
  length,
  set(name, w) {
    Object.assign(state, { name, w });
    one(`input[value=${name}]`).checked = true;
    still();
  },
  get() {
    const chosen = now(), g = gradient(state.w), memory = chosen.memory && chosen.memory(state.w);
    return { gradient: g, ...steepest(g, chosen.t), path: descend(state.w, chosen.t), memory,
      prodigy: prodigy(state.w), polar: polar(g), products: products(g),
      size: length(minus([0, 0], g, 1), chosen.t) };
  },
};
