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

  // The table of all trials: sorted by its headings, filtered by words, and two of its rows side by side. Everything is
  // written as text, so that no name in it can become anything else.
  function trialsTable() {
    const table = document.querySelector(".trials");
    if (!table) return null;
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
    const rows = [...body.rows].map((row) => {
      const texts = [...row.cells].map((cell) => (cell.querySelector("span") || cell).textContent);
      return { row, texts, words: texts.join(" ").toLowerCase() };
    });
    const state = { by: -1, falling: false, words: "", chosen: [] };
    const search = document.querySelector(".tools input");
    const status = document.querySelector(".tools [role=status]");
    const side = document.querySelector(".side");

    const number = (text) => (text === "–" || text === "" ? NaN : Number(text.replaceAll(",", "").replace("−", "-")));
    function compare(one, other) {
      const [first, second] = [one.texts[state.by], other.texts[state.by]];
      const [a, b] = [number(first), number(second)];
      const order = state.falling ? -1 : 1;
      if (!isNaN(a) && !isNaN(b)) return order * (a - b);
      if (isNaN(a) !== isNaN(b)) return isNaN(a) ? 1 : -1;  // what is missing comes last in either order
      return order * first.localeCompare(second);
    }

    function show() {
      const sorted = state.by < 0 ? rows : [...rows].sort(compare);
      const wanted = state.words.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const each of sorted) {
        each.row.hidden = !wanted.every((word) => each.words.includes(word));
        shown += !each.row.hidden;
      }
      body.append(...sorted.map((each) => each.row));
      for (const [place, head] of [...table.tHead.rows[0].cells].slice(1).entries()) {
        if (place === state.by) head.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      }
      status.textContent = wanted.length ? `${shown} of ${rows.length}` : "";
    }

    function cell(kind, text) {
      const made = document.createElement(kind);
      made.textContent = text;
      return made;
    }

    function showPair() {
      for (const { row, texts, box } of rows) {
        box.checked = state.chosen.includes(texts[0]);
        row.classList.toggle("chosen", box.checked);
      }
      const pair = state.chosen.map((trial) => rows.find((each) => each.texts[0] === trial)).filter(Boolean);
      if (!side || pair.length !== 2) return;
      side.tBodies[0].replaceChildren(...heads.map((head, place) => {
        const line = document.createElement("tr");
        const [one, other] = pair.map((each) => each.texts[place]);
        if (one !== other) line.className = "differs";
        line.append(cell("th", head), cell("td", one), cell("td", other));
        if (place === 1) for (const each of line.cells) each.classList.add("names");
        line.firstChild.scope = "row";
        return line;
      }));
    }

    function choose(trial, isChosen) {
      state.chosen = state.chosen.filter((each) => each !== trial);
      if (isChosen) state.chosen = [...state.chosen, trial].slice(-2);
      showPair();
    }

    for (const each of rows) {
      each.box = document.createElement("input");
      each.box.type = "checkbox";
      each.box.setAttribute("aria-label", `Compare trial ${each.texts[0]}`);
      each.box.addEventListener("change", () => choose(each.texts[0], each.box.checked));
      const first = document.createElement("td");
      first.append(each.box);
      each.row.prepend(first);
    }
    for (const [place, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = cell("button", head.textContent);
      button.type = "button";
      button.className = "sort";
      button.addEventListener("click", () => {
        state.falling = state.by === place && !state.falling;
        state.by = place;
        show();
      });
      head.replaceChildren(button);
    }
    table.tHead.rows[0].prepend(document.createElement("td"));
    search.addEventListener("input", () => { state.words = search.value; show(); });
    document.documentElement.classList.add("scripted");
    return {
      state,
      restore(kept) {
        Object.assign(state, kept);
        search.value = state.words;
        show();
        showPair();
      },
    };
  }

  // A page of a study at work loads itself anew, as it was: what was open stays open, where it was read stays in sight.
  // Not while nobody looks, while text is selected, or after "Pause".
  function renew(trials) {
    const seconds = Number(document.documentElement.dataset.renewedS || 0);
    const button = document.querySelector(".renewal button");
    if (!seconds || !button) return;
    const folds = [...document.querySelectorAll("details")];
    const kept = history.state || {};
    for (const place of kept.open || []) if (folds[place]) folds[place].open = true;
    if (trials && kept.trials) trials.restore(kept.trials);
    const pause = (paused) => {
      button.setAttribute("aria-pressed", String(paused));
      button.textContent = paused ? "Resume" : "Pause";
    };
    pause(Boolean(kept.paused));
    const isPaused = () => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("click", () => { pause(!isPaused()); remember(); });
    function remember() {
      const open = folds.flatMap((fold, place) => (fold.open ? [place] : []));
      history.replaceState({ open, paused: isPaused(), trials: trials && trials.state }, "");
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
  renew(trialsTable());
  draw();
})();
