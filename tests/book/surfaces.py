"""Questions that a browser answers about a page: what is cut, covered or torn.

Each is a script that returns what it found, an empty list for a sound page.
``test_surfaces_browser.py`` asks them of every page, and of pages made ill.
"""

# Boxes that are wider than they show, and neither scroll nor say so.
WIDE_FORMULAS = """() => [...document.querySelectorAll("article mjx-container[display]")]
  .filter(m => m.getClientRects().length)
  .filter(m => {
    const box = m.closest("div.math") || m, ink = m.querySelector("mjx-math") || m;
    const over = Math.max(box.scrollWidth - box.clientWidth,
      ink.getBoundingClientRect().right - box.getBoundingClientRect().right);
    return over > 1 && !(/auto|scroll/.test(getComputedStyle(box).overflowX)
      && getComputedStyle(box).backgroundImage.includes("gradient")
      && box.tabIndex >= 0); })
  .map(m => (m.closest("section")?.id || "") + ": " + m.textContent.slice(0, 60))"""
WIDE_TABLES = """() => [...document.querySelectorAll("article table")]
  .filter(t => t.getClientRects().length)
  .filter(t => {
    let box = t.parentElement;
    while (box.tagName !== "ARTICLE" && getComputedStyle(box).overflowX === "visible")
      box = box.parentElement;
    return box.scrollWidth > box.clientWidth + 1
      && !getComputedStyle(box).backgroundImage.includes("gradient"); })
  .map(t => t.textContent.trim().slice(0, 60))"""
# What covers a shade where content ends, in another colour than the box around it.
COVERS = """() => [...document.querySelectorAll("article div.math")]
  .filter(m => m.getClientRects().length)
  .filter(m => {
    const color = /linear-gradient\\(to right, (rgba?\\([^)]*\\))/.exec(
      getComputedStyle(m).backgroundImage);
    let box = m.parentElement, clear = "rgba(0, 0, 0, 0)";
    const tint = e => getComputedStyle(e).backgroundColor;
    while (box.parentElement && tint(box) === clear) box = box.parentElement;
    return color && tint(box) !== clear && color[1] !== tint(box); })
  .map(m => m.textContent.slice(0, 60))"""
# Punctuation that begins a line because the formula before it ended one.
ORPHANS = """() => [...document.querySelectorAll("article mjx-container:not([display])")]
  .map(m => m.closest(".math") || m)
  .map(m => [m, m.nextSibling])
  .filter(([m, t]) => t && t.nodeType === 3 && /^[,.;:!?)]/.test(t.data))
  .filter(([m, t]) => { const r = document.createRange();
    r.setStart(t, 0); r.setEnd(t, 1);
    const a = m.getClientRects(), b = r.getBoundingClientRect();
    return a.length && b.width && b.top > a[a.length - 1].bottom - 2; })
  .map(([m, t]) => m.parentElement.textContent.slice(0, 80))"""
# Formulas that the tab key visits although nothing in them scrolls.
IDLE_STOPS = """() => [...document.querySelectorAll("mjx-container, div.math")]
  .filter(m => [m, ...m.querySelectorAll("[tabindex]")].some(e => e.tabIndex >= 0))
  .filter(m => m.scrollWidth <= m.clientWidth + 1)
  .map(m => m.textContent.slice(0, 40))"""
# Signs of TeX that a reader of a caption would see.
RAW_CAPTIONS = """() => [...document.querySelectorAll("figcaption, table caption")]
  .flatMap(c => { const seen = [], walk = document.createTreeWalker(c, 4);
    while (walk.nextNode()) { const t = walk.currentNode;
      if (/[\\^_\\\\$]/.test(t.data)
        && !t.parentElement.closest("code, mjx-container, script, style"))
        seen.push(t.data.trim().slice(0, 60)); }
    return seen; })"""
# Words of a drawing that reach out of it, or stand on another word. A panel cut off
# a wider drawing hides the words of its neighbours entirely: those are no fault.
LABELS = """() => [...document.querySelectorAll("article svg")]
  .filter(s => !s.parentElement.closest("svg, mjx-container"))
  .flatMap(s => {
    const box = s.getBoundingClientRect(), faults = [];
    if (!box.width) return [];
    const words = [...s.querySelectorAll("text")]
      .filter(t => t.textContent.trim() && getComputedStyle(t).visibility !== "hidden"
        && getComputedStyle(t).opacity !== "0")
      .map(t => [t.textContent.trim(), t.getBoundingClientRect()])
      .filter(([, r]) => r.width && r.right > box.left && r.left < box.right
        && r.bottom > box.top && r.top < box.bottom);
    for (const [said, r] of words)
      if (r.left < box.left - 2 || r.right > box.right + 2
          || r.top < box.top - 2 || r.bottom > box.bottom + 2)
        faults.push("out: " + said);
    words.forEach(([one, a], i) => words.slice(i + 1).forEach(([two, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && high > 0.3 * Math.min(a.height, b.height))
        faults.push("on each other: " + one + " | " + two); }));
    return faults; })"""
ALL = {
    "a formula wider than its box": WIDE_FORMULAS,
    "a table with hidden columns and no cue": WIDE_TABLES,
    "a cover in another colour than its box": COVERS,
    "punctuation torn from its formula": ORPHANS,
    "a formula that the tab key visits": IDLE_STOPS,
    "signs of TeX in a caption": RAW_CAPTIONS,
    "a label out of its figure or on another": LABELS,
}
