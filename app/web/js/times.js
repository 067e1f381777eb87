// Shows the time of each stage, as the server has measured it, and the rest as the time of transfer.

import { find, make } from "./dom.js";
import { formatMilliseconds } from "./words.js";

const NAMES = {
  accept: "accept",
  read: "upload",
  decode: "decode",
  queue: "queue",
  inference: "network",
  encode: "encode",
};

export function showTimes({ stages, milliseconds }) {
  const onServer = stages.reduce((sum, stage) => sum + stage.milliseconds, 0);
  const rest = { name: "transfer", milliseconds: Math.max(0, milliseconds - onServer) };
  const all = [...stages, rest];
  find("times-total").textContent = formatMilliseconds(milliseconds);
  find("times-bar").replaceChildren(
    ...all.map((stage) => {
      const part = make("span", { className: `stage-${stage.name}` });
      part.style.flexGrow = String(stage.milliseconds);
      return part;
    }),
  );
  find("times").replaceChildren(
    ...all.map((stage) =>
      make(
        "div",
        { className: `stage-${stage.name}` },
        make("dt", {}, NAMES[stage.name] ?? stage.name),
        make("dd", {}, formatMilliseconds(stage.milliseconds)),
      ),
    ),
  );
}
