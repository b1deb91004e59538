// How results are ordered: what bears the name that was asked for, then chapters,
// then pages of reference, then the package. What an excerpt shows: the text.
var Scorer = {
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
  score: ([page, title, anchor, , score]) => {
    const asked = new URLSearchParams(location.search).get("q") ?? "";
    const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]/gu, "");
    const words = title.replace(/<[^>]*>/g, "").replace(/^[\d.]+\s/, "");
    const named = plain(words.split(":")[0]) === plain(asked);
    const entry = (anchor ?? "").replace("#", "").startsWith("anthology.");
    if (entry) return score;
    if (/^(index|intro)$/.test(page)) return score + 1500;
    const chapter = !page.startsWith("chapters/reference/");
    const kind = chapter ? 2000 : /\/(api|optim\/)/.test(page) ? 500 : 1000;
    return score + kind + (named ? 4000 : 0);
  },
};

document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const article = page.querySelector("article") ?? page.body;
    const part = anchor ? page.getElementById(anchor.replace("#", "")) : null;
    const text = part?.closest("section") ?? part ?? article;
    text.querySelectorAll("h1, script, style, svg, pre, button, .headerlink, div.math")
      .forEach((e) => e.remove());
    text.querySelectorAll(".math").forEach((e) => {
      const formula = e.textContent.replace(/^\\\(|\\\)$/g, "");
      e.textContent = /[\\^_{]/.test(formula) ? "…" : formula;
    });
    return text.textContent.replace(/\s+/g, " ");
  };
});
