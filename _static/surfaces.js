// A display a little wider than its box is set a little smaller; one that is much
// wider scrolls, and then the tab key reaches it. No other formula is a tab stop.
{
  const smallest = 0.8;
  const fit = (box) => {
    const formula = box.querySelector("mjx-container");
    if (!formula || !box.clientWidth) return;
    formula.style.fontSize = "";
    const full = parseFloat(getComputedStyle(formula).fontSize);
    for (let tries = 0; tries < 3 && box.scrollWidth > box.clientWidth; tries++) {
      const now = parseFloat(getComputedStyle(formula).fontSize) / full;
      const ratio = Math.max(smallest, (0.995 * now * box.clientWidth) / box.scrollWidth);
      formula.style.fontSize = `${ratio * full}px`;
    }
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  addEventListener("load", () => window.MathJax?.startup?.promise?.then(() => {
    const watch = new ResizeObserver((seen) => seen.forEach((one) => fit(one.target)));
    const boxes = document.querySelectorAll("article div.math");
    boxes.forEach((box) => watch.observe(box));
    addEventListener("resize", () => boxes.forEach(fit));
  }));
}
