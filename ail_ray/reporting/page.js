"use strict";
// Without this script every round and every crop is simply there, one beside the other.
for (const film of document.querySelectorAll(".film")) {
  const input = film.querySelector("input"), frames = [...film.querySelectorAll(".frames figure")];
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== Number(input.value); });
    input.setAttribute("aria-valuetext", frames[input.value].querySelector("figcaption").textContent);
  };
  input.addEventListener("input", show);
  film.querySelector(".tuner").hidden = frames.length < 2;
  show();
}
for (const comparison of document.querySelectorAll(".comparison")) {
  const figures = [...comparison.querySelectorAll(".panels figure")], stage = comparison.querySelector(".stage");
  const [under, over] = stage.children, input = comparison.querySelector("input");
  const [left, right] = comparison.querySelectorAll("select");
  const caption = (i) => figures[i].querySelector("figcaption").textContent;
  for (const select of [left, right]) figures.forEach((_, i) => select.add(new Option(caption(i), i)));
  left.value = 0;
  right.value = Math.max(0, figures.findIndex((_, i) => caption(i).startsWith("student")));
  const show = () => {
    for (const [image, select] of [[over, left], [under, right]]) {
      const source = figures[select.value].querySelector("img");
      if (image.src !== source.src) image.src = source.src;
      image.alt = source.alt;
    }
    over.style.clipPath = `inset(0 ${100 - input.value}% 0 0)`;
    stage.style.setProperty("--at", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} % ${caption(left.value)}, the rest ${caption(right.value)}`);
  };
  for (const control of [input, left, right]) control.addEventListener("input", show);
  const drag = (event) => {
    if (!event.buttons) return;
    const box = stage.getBoundingClientRect();
    input.value = Math.round(100 * (event.clientX - box.left) / box.width);
    show();
  };
  for (const name of ["pointerdown", "pointermove"]) stage.addEventListener(name, drag);
  for (const image of stage.children) image.draggable = false;
  stage.hidden = comparison.querySelector(".tuner").hidden = figures.length < 2;
  show();
}
