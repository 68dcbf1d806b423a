(() => {
  "use strict";
  const LIGHT = { ink: "#1c2430", line: "#dde1e7", card: "#ffffff" };
  const DARK = { ink: "#e6eaf0", line: "#303945", card: "#1a2028" };
  const CONFIG = {
    displaylogo: false, showSendToCloud: false, responsive: true, scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const PRINT_WIDTH = 680;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const drawn = [];

  function colours(layout, theme) {
    const update = {
      "font.color": theme.ink, "hoverlabel.bgcolor": theme.card, "hoverlabel.font.color": theme.ink,
      "modebar.color": theme.ink, "modebar.bgcolor": "rgba(0,0,0,0)",
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      update[`${axis}.gridcolor`] = theme.line;
      update[`${axis}.linecolor`] = theme.line;
      update[`${axis}.tickcolor`] = theme.line;
    }
    (layout.annotations || []).forEach((annotation, place) => {
      if (annotation.bgcolor) update[`annotations[${place}].bgcolor`] = theme.card;
    });
    return update;
  }

  function paint(printing) {
    const theme = dark.matches && !printing ? DARK : LIGHT;
    for (const plot of drawn) {
      const size = printing ? { width: Math.min(PRINT_WIDTH, plot.clientWidth), autosize: false }
        : { width: null, autosize: true };
      Plotly.relayout(plot, { ...colours(plot.layout, theme), ...size });
    }
  }

  async function draw() {
    const theme = dark.matches ? DARK : LIGHT;
    for (const plot of document.querySelectorAll(".plot")) {
      try {
        const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
        await Plotly.newPlot(plot, data, layout, CONFIG);
        await Plotly.relayout(plot, colours(plot.layout, theme));
        drawn.push(plot);
      } catch (error) {
        plot.textContent = `This browser could not draw the figure: ${error.message}`;
      }
    }
    document.documentElement.dataset.drawn = "all";
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

  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
  dark.addEventListener("change", () => paint(false));
  addEventListener("beforeprint", () => paint(true));
  addEventListener("afterprint", () => paint(false));
  draw();
})();
