"""The little that a page does by itself; without it everything is there, and still."""

SCRIPT = """
for (const svg of document.querySelectorAll(".chart svg")) {
  const cross = svg.querySelector(".cross");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  svg.parentNode.append(tip);
  const show = band => {
    const [head, ...lines] = band.dataset.text.split("\\n");
    const colors = band.dataset.s.split("|");
    tip.replaceChildren(head, ...lines.map((line, i) => {
      const row = document.createElement("div"), key = document.createElement("i");
      key.className = colors[i];
      row.append(key, line);
      return row;
    }));
    const x = +band.dataset.x, box = svg.getBoundingClientRect();
    cross.setAttribute("x1", x);
    cross.setAttribute("x2", x);
    cross.removeAttribute("hidden");
    tip.hidden = false;
    const at = svg.offsetLeft === undefined ? 0 : svg.offsetLeft;
    const left = x / svg.viewBox.baseVal.width * box.width + at;
    const right = left > box.width / 2;
    tip.style.left = right ? "auto" : left + 14 + "px";
    tip.style.right = right ? box.width - left + 14 + "px" : "auto";
  };
  const hide = () => { tip.hidden = true; cross.setAttribute("hidden", ""); };
  for (const band of svg.querySelectorAll(".band")) {
    const title = band.querySelector("title");
    band.dataset.text = title.textContent;
    title.remove();
    band.addEventListener("pointerenter", () => show(band));
    band.addEventListener("pointerdown", () => show(band));
  }
  svg.addEventListener("pointerleave", hide);
}
for (const slider of document.querySelectorAll(".slider")) {
  const frames = [...slider.querySelectorAll(".frame")];
  const range = slider.querySelector("input"), play = slider.querySelector(".play");
  const show = i => {
    frames.forEach((frame, j) => frame.classList.toggle("shown", i === j));
    slider.querySelector("output").textContent = frames[i].querySelector("figcaption").textContent;
    range.value = i;
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "\\u25b6"; };
  range.addEventListener("input", () => { stop(); show(+range.value); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.textContent = "\\u23f8";
    timer = setInterval(() => show((+range.value + 1) % frames.length), 700);
  });
  slider.classList.add("on");
  slider.querySelector(".control").hidden = false;
  show(frames.length - 1);
}
for (const search of document.querySelectorAll("input[type=search]")) {
  search.hidden = false;
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase();
    for (const row of search.parentNode.querySelectorAll("tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}
"""
