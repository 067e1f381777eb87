// Connects the parts of the page.

import { fetchModel } from "./api.js";
import { connectTheme } from "./appearance.js";
import { Collection } from "./collection.js";
import { find, show } from "./dom.js";
import { connectIntake } from "./intake.js";
import { askForKey, connectKeyDialog } from "./keydialog.js";
import { connectNotice, hideNotice, showNotice } from "./notice.js";
import { Pipeline } from "./pipeline.js";
import { showCommand, showServer } from "./server.js";
import { Strip } from "./strip.js";
import { Viewer } from "./viewer.js";
import { formatShare } from "./words.js";

let model = null;

const collection = new Collection();
const pipeline = new Pipeline(collection, { onSegmented });
const viewer = new Viewer({
  nameClass,
  announce,
  onProblem: (error) => showNotice({ title: "This cannot be saved", text: `${error.message}.` }),
});
new Strip(find("photos"), collection);

function nameClass(index) {
  return model?.classes[index]?.name ?? `class ${index}`;
}

function announce(text) {
  find("announcement").textContent = text;
}

async function loadModel() {
  try {
    model = await fetchModel();
    pipeline.limits = model.limits;
    hideNotice();
    showServer(model);
    viewer.updateNames();
  } catch (problem) {
    const needsKey = problem.status === 401;
    showNotice({
      title: problem.title,
      text: [problem.detail, problem.remedy].filter(Boolean).join(" "),
      button: needsKey ? "Enter an API key" : "Try again",
      onClick: needsKey ? () => askForKey(problem) : loadModel,
    });
    if (needsKey) show(find("key-button"), true);
  }
}

function onSegmented(item) {
  if (model && item.answer.digest && item.answer.digest !== model.digest) loadModel();
  const { height, width, classes } = item.summary;
  const shares = classes.map(({ index, pixels }) => `${nameClass(index)} ${formatShare(pixels / (height * width))}`);
  announce(`${item.name}: ${shares.join(", ")}`);
}

function addFiles(files) {
  pipeline.add(collection.add(files));
}

collection.addEventListener("list", () => {
  const isEmpty = collection.items.length === 0;
  show(find("start"), isEmpty);
  show(find("work"), !isEmpty);
});
collection.addEventListener("selection", ({ detail }) => viewer.select(detail));
collection.addEventListener("item", ({ detail: item }) => {
  viewer.update(item);
  if (item.state !== "failed") return;
  announce(`${item.name}: ${item.problem.title}. ${item.problem.detail} ${item.problem.remedy}`);
  if (item.problem.status === 401) askForKey(item.problem);
});

find("problem-again").addEventListener("click", () => pipeline.retry([collection.selected]));
find("problem-key").addEventListener("click", () => askForKey(collection.selected.problem));

connectTheme(find("theme-button"));
connectNotice();
connectKeyDialog({
  onKey: () => {
    loadModel();
    pipeline.retry(collection.items.filter((item) => item.problem?.status === 401));
  },
});
connectIntake({
  onFiles: addFiles,
  onNothing: () =>
    showNotice({
      title: "There was no file",
      text: "Drop image files. A link is not enough: this server fetches nothing from elsewhere.",
    }),
});
showCommand();
loadModel();
