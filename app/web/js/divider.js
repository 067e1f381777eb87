// The divider between the photo and the overlay, which the pointer or keys move.

const STEPS = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 };

export function connectDivider(divider, stage) {
  const move = (percent) => {
    const position = Math.min(100, Math.max(0, percent));
    stage.style.setProperty("--divider", `${position}%`);
    divider.setAttribute("aria-valuenow", String(Math.round(position)));
    divider.setAttribute("aria-valuetext", `${Math.round(position)} % photo`);
  };
  const follow = (event) => {
    const { left, width } = stage.getBoundingClientRect();
    move((100 * (event.clientX - left)) / width);
  };
  divider.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    divider.focus();
    divider.setPointerCapture(event.pointerId);
    divider.addEventListener("pointermove", follow);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    divider.addEventListener(end, () => divider.removeEventListener("pointermove", follow));
  }
  divider.addEventListener("keydown", (event) => {
    const ends = { Home: 0, End: 100 };
    const now = Number(divider.getAttribute("aria-valuenow"));
    if (event.key in STEPS) move(now + STEPS[event.key]);
    else if (event.key in ends) move(ends[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the stage's own arrow keys move the crosshair
  });
  move(50);
}
