(() => {
  "use strict";
  const LIGHT = { ink: "#1c2430", line: "#dde1e7", card: "#ffffff" };
  const DARK = { ink: "#e6eaf0", line: "#303945", card: "#1a2028" };
  const BRIGHTER = { "#0072B2": "#4AA8E8", "#009E73": "#2CCB9C" };
  const CONFIG = {
    displaylogo: false, showSendToCloud: false, responsive: true, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const PRINT_WIDTH = 680;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = [];
  const waiting = new Set(document.querySelectorAll(".plot"));

  // The figure's own JSON in the theme's colours: axes, texts, and marks that would be too dark on black.
  function themed(plot, theme) {
    const source = plot.nextElementSibling.textContent;
    const recolour = (key, value) => (theme === DARK && BRIGHTER[value]) || value;
    const { data, layout } = JSON.parse(source, recolour);
    layout.font.color = theme.ink;
    layout.hoverlabel = { bgcolor: theme.card, font: { color: theme.ink } };
    layout.modebar = { color: theme.ink, bgcolor: "rgba(0,0,0,0)" };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      Object.assign(layout[axis], { gridcolor: theme.line, linecolor: theme.line, tickcolor: theme.line });
    }
    for (const annotation of layout.annotations || []) {
      if (annotation.bgcolor) annotation.bgcolor = theme.card;
    }
    return { data, layout };
  }

  function paint(printing) {
    const theme = dark.matches && !printing ? DARK : LIGHT;
    for (const plot of drawn) {
      const { data, layout } = themed(plot, theme);
      if (printing) Object.assign(layout, { width: Math.min(PRINT_WIDTH, plot.clientWidth), autosize: false });
      Plotly.react(plot, data, layout, CONFIG);
    }
  }

  // plotly.js is most of the page, and stands in it as text, so that a reader has the words before it is read.
  function load() {
    const source = document.getElementById("plotly");
    if (!source) return;
    const script = document.createElement("script");
    script.textContent = source.textContent;
    source.remove();
    document.head.append(script);
  }

  function drawOne(plot) {
    waiting.delete(plot);
    const failed = (error) => { plot.textContent = `This browser could not draw the figure: ${error.message}`; };
    try {
      const { data, layout } = themed(plot, dark.matches ? DARK : LIGHT);
      Plotly.newPlot(plot, data, layout, CONFIG).catch(failed);
      drawn.push(plot);
    } catch (error) {
      failed(error);
    }
  }

  function distance(plot) {
    const box = plot.getBoundingClientRect();
    return Math.max(0, box.top - innerHeight, -box.bottom);
  }

  // The figure that is nearest to what the reader sees comes first, and between two the page answers the reader.
  async function draw() {
    const breath = () => new Promise((done) => setTimeout(done));
    if (!document.hidden) await new Promise(requestAnimationFrame);
    await breath();
    load();
    while (waiting.size) {
      await breath();
      const near = [...waiting].sort((one, other) => distance(one) - distance(other));
      if (near.length) drawOne(near[0]);
    }
    document.documentElement.dataset.drawn = "all";
  }

  function print() {
    load();
    for (const plot of waiting) drawOne(plot);
    paint(true);
  }

  async function copy(button) {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2500);
  }

  // A page of a study at work loads itself anew, as it was: what was open stays open, where it was read stays in sight.
  // Not while nobody looks, while text is selected, or after "Pause".
  function renew() {
    const seconds = Number(document.documentElement.dataset.renewedS || 0);
    const button = document.querySelector(".renewal button");
    if (!seconds || !button) return;
    const folds = [...document.querySelectorAll("details")];
    const kept = history.state || {};
    for (const place of kept.open || []) if (folds[place]) folds[place].open = true;
    const pause = (paused) => {
      button.setAttribute("aria-pressed", String(paused));
      button.textContent = paused ? "Resume" : "Pause";
    };
    pause(Boolean(kept.paused));
    const isPaused = () => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("click", () => { pause(!isPaused()); remember(); });
    function remember() {
      const open = folds.flatMap((fold, place) => (fold.open ? [place] : []));
      history.replaceState({ open, paused: isPaused() }, "");
    }
    setInterval(() => {
      if (document.hidden || isPaused() || String(getSelection())) return;
      remember();
      location.reload();
    }, 1000 * seconds);
  }

  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
  dark.addEventListener("change", () => paint(false));
  addEventListener("beforeprint", print);
  addEventListener("afterprint", () => paint(false));
  renew();
  draw();
})();
