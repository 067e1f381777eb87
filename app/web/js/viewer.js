// Shows the selected photo in any state: its picture, mask, classes, times and problem.

import { run } from "./background.js";
import { connectDivider } from "./divider.js";
import { find, show } from "./dom.js";
import { saveArray, saveMask, saveOverlay } from "./downloads.js";
import { Legend } from "./legend.js";
import { BACKGROUND } from "./paint.js";
import { Probe } from "./probe.js";
import { Stage } from "./stage.js";
import { showTimes } from "./times.js";
import { formatBytes, formatSize } from "./words.js";

// The longest side in pixels. It is enough for a screen, and takes a tenth of the memory of 25 megapixels.
const LONGEST = 2048;

export class Viewer {
  #stage = new Stage();
  #item = null;
  #view = null; // the photo as the browser shows it, null if it cannot
  #shown = null; // the answer whose mask the stage shows
  #nameClass;
  #legend;
  #probe;

  constructor({ nameClass, announce, onProblem }) {
    this.#nameClass = nameClass;
    this.#legend = new Legend({ onSelect: (index) => this.#stage.showOnly(index) });
    this.#probe = new Probe(this.#stage, {
      nameClass,
      announce,
      onClass: (index) => this.#legend.point(index),
    });
    connectDivider(this.#stage.divider, this.#stage.element);
    this.#connectControls();
    this.#connectDownloads(onProblem);
  }

  async select(item) {
    this.#item = item;
    this.#shown = null;
    this.#probe.hide();
    if (!item) return;
    find("title").textContent = item.name;
    find("size").textContent = formatBytes(item.file.size);
    this.#stage.element.setAttribute("aria-label", `${item.name} and its mask`);
    this.#showState();
    this.#stage.setPhoto(null);
    const view = await run("view", { file: item.file, longest: LONGEST }).catch(() => null);
    if (this.#item !== item) {
      view?.bitmap.close();
      return;
    }
    this.#stage.setPhoto(view);
    this.#view = view;
    await this.update(item);
  }

  async update(item) {
    if (item !== this.#item) return;
    this.#showState();
    if (item.state !== "done" || this.#shown === item.answer) return;
    const mask = await run("open", { png: item.answer.png, longest: LONGEST });
    if (this.#item !== item || this.#shown === item.answer) return;
    this.#shown = item.answer;
    this.#showMask(item, mask);
  }

  // Call this when the names of the classes have changed.
  updateNames() {
    if (this.#item?.state === "done" && this.#stage.mask) this.#showLegend();
  }

  #showMask(item, mask) {
    const fits = this.#view?.height === mask.height && this.#view?.width === mask.width;
    if (!fits) this.#stage.setPhoto(null);
    this.#stage.setMask(mask);
    find("stage-note").textContent = fits
      ? ""
      : "This browser cannot show photos in this format; the mask is complete.";
    find("size").textContent = `${formatSize(mask.height, mask.width)}, ${formatBytes(item.file.size)}`;
    this.#showLegend();
    showTimes(item.answer);
    this.#showControls();
    this.#showState();
  }

  #showLegend() {
    const { summary } = this.#item;
    const { palette, height, width } = this.#stage.mask;
    this.#legend.render({
      classes: summary.classes,
      pixels: height * width,
      palette,
      nameClass: this.#nameClass,
      only: this.#stage.only,
    });
    const isEmpty = summary.classes.length === 1 && summary.classes[0].index === BACKGROUND;
    find("classes-help").textContent = isEmpty
      ? "The photo has none of the server's classes."
      : "Choose a class to show only that class.";
  }

  #showState() {
    const { state, problem } = this.#item;
    const isDone = state === "done";
    for (const id of ["classes-part", "downloads-part", "times-part"]) show(find(id), isDone);
    const isBusy = state !== "failed" && !(isDone && this.#shown === this.#item.answer);
    find("stage").setAttribute("aria-busy", String(isBusy));
    const texts = {
      waiting: "Waiting for the photos before it",
      running: "Computing the mask",
      retrying: problem && `${problem.title}. Trying again in ${problem.retryAfterS} s`,
    };
    find("progress").textContent = texts[state] ?? "";
    show(find("progress"), state in texts);
    show(find("problem"), state === "failed");
    show(find("stage-help"), state !== "failed");
    if (state === "failed") {
      find("problem-title").textContent = problem.title;
      find("problem-detail").textContent = problem.detail;
      find("problem-remedy").textContent = problem.remedy;
      show(find("problem-key"), problem.status === 401);
    }
    this.#showControls();
  }

  #showControls() {
    const mode = this.#stage.shownMode;
    const hasMask = this.#stage.mask !== null;
    for (const input of find("modes").querySelectorAll("input")) {
      input.disabled = !hasMask || !this.#stage.hasPhoto;
      input.checked = input.value === mode;
    }
    find("opacity").disabled = !hasMask || !this.#stage.showsMaskOverPhoto;
    find("opacity-label").classList.toggle("off", find("opacity").disabled);
    find("download-overlay").disabled = !this.#stage.hasPhoto;
  }

  #connectControls() {
    find("modes").addEventListener("change", ({ target }) => {
      this.#stage.setMode(target.value);
      this.#showControls();
    });
    find("opacity").addEventListener("input", ({ target }) => {
      this.#stage.setOpacity(Number(target.value) / 100);
      find("opacity-value").textContent = `${target.value} %`;
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.#legend.clear();
    });
  }

  #connectDownloads(onProblem) {
    const savers = {
      "download-mask": saveMask,
      "download-overlay": (item) => saveOverlay(item, this.#stage),
      "download-array": saveArray,
    };
    for (const [id, saver] of Object.entries(savers)) {
      const button = find(id);
      button.addEventListener("click", async () => {
        button.setAttribute("aria-busy", "true");
        try {
          await saver(this.#item);
        } catch (error) {
          onProblem(error);
        } finally {
          button.removeAttribute("aria-busy");
        }
      });
    }
  }
}
