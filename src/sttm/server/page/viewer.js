// The frames of the chosen video, in one pane or in two, and the timeline that they share.

import * as api from "./api.js";
import { clock, complain, find, make, seconds } from "./dom.js";
import { noteWatched } from "./library.js";
import { Pane } from "./pane.js";

const QUESTION = "What happens?"; // whoever watches has to ask something; the answer is one token
const STAGES = { decode: "Decode", process: "Resize", encode: "Vision tower", prefill: "Prefill", first_token: "First token" };
const state = { file: null, panes: [], about: null, model: "", all: new Map(), timer: null };

export const panes = () => state.panes;

export function openViewer(model, about) {
  Object.assign(state, { model, about });
  const own = { method: about.method ?? about.methods[0], keep: Math.min(about.keep > 0 && about.keep <= 1 ? about.keep : 0.3, about.max_keep) };
  const hooks = { watch: (pane) => watch(pane).catch(complain), seek: (step) => go(step) };
  state.panes = [new Pane("A", own, about, hooks)];
  const other = new Pane("B", { ...own, keep: about.max_keep }, about, hooks);
  find("both").addEventListener("change", (event) => {
    state.panes = event.target.checked ? [state.panes[0], other] : [state.panes[0]];
    arrange();
    if (event.target.checked && state.file) watch(other).catch(complain);
  });
  arrange();
}

function arrange() {
  find("panes").replaceChildren(...state.panes.map((pane) => pane.element), find("controls"));
  showTimes();
  find("panes").classList.toggle("two", state.panes.length === 2);
}

/** Show another video, or none. */
export async function showVideo(file) {
  stopPlaying();
  state.file = file;
  find("viewer-title").textContent = file ? file.filename : "No video yet";
  for (const id of ["panes", "stages", "both-label"]) find(id).hidden = !file;
  find("empty").hidden = !!file;
  find("time").value = "0";
  for (const pane of state.panes) pane.clear();
  if (file) await Promise.all(state.panes.map(watch));
}

/** The body of a request about the chosen video. */
export function request(setting, messages, file = state.file) {
  const [first, ...rest] = messages;
  const content = [
    { type: "file", file: { file_id: file.id } },
    { type: "text", text: first.content },
  ];
  const keep = setting.keep;
  const sttm = keep >= 1 ? { keep: 1.0 } : { keep, method: setting.method };
  return { model: state.model, messages: [{ ...first, content }, ...rest], sttm };
}

async function askOnce(setting) {
  const messages = [{ role: "user", content: QUESTION }];
  return api.ask({ ...request(setting, messages), max_tokens: 1 }, () => {});
}

/** Let the model watch the video at a pane's setting, and show it. */
async function watch(pane) {
  const file = state.file, setting = pane.setting;
  if (!file) return;
  pane.busy(`Watching at ${pane.text} …`);
  try {
    const details = await askOnce(setting);
    noteWatched(file, details.video_id);
    if (state.file !== file || pane.setting !== setting) return;
    await pane.show(details);
    showTimes();
    const slider = find("time");
    slider.max = String(state.panes[0].times.length - 1);
    go(Number(slider.value));
  } finally {
    if (pane.setting === setting) pane.busy("");
  }
}

/** Watch with all tokens, to compare the times. */
async function measure() {
  const file = state.file;
  const details = await askOnce({ keep: 1 });
  noteWatched(file, details.video_id);
  state.all.set(file.id, details);
  showTimes();
}

function showTimes() {
  const all = state.all.get(state.file?.id);
  const columns = state.panes.map((pane) => [`${pane.slot}: ${pane.text}`, pane.details]);
  const isShown = state.panes.some((pane) => pane.setting.keep >= 1);
  if (!isShown) columns.push(["all tokens", all]);
  find("measure").hidden = isShown || state.about.max_keep < 1;
  const line = (tag, name, texts) => make("tr", {}, make("th", { scope: "row", textContent: name }),
    ...texts.map((textContent) => make(tag, { textContent })));
  const table = find("stages").querySelector("table");
  table.tHead.replaceChildren(line("th", "Stage", columns.map(([name]) => name)));
  table.tBodies[0].replaceChildren(
    ...Object.entries(STAGES).map(([stage, name]) =>
      line("td", name, columns.map(([, of]) => (of ? seconds(of.stages_ms[stage]) : "–")))),
    line("td", "Video tokens", columns.map(([, of]) => (of ? String(of.tokens_out) : "–"))));
}

/** Note what the server said with an answer. */
export function noteAnswer(file, slot, details) {
  const pane = state.panes.find((each) => each.slot === slot);
  if (state.file === file && pane?.id === details.video_id) pane.show(details).then(showTimes).catch(complain);
}

/** Show the frame of a time in seconds. */
export function seek(time) {
  const times = state.panes[0].times;
  const later = times.findIndex((each) => each > time);
  go((later < 0 ? times.length : Math.max(1, later)) - 1);
}

function go(step) {
  const times = state.panes[0].times;
  if (!times.length) return;
  const place = Math.min(Math.max(0, step), times.length - 1);
  find("time").value = String(place);
  find("time").setAttribute("aria-valuetext", `${clock(times[place])}, frame ${place + 1} of ${times.length}`);
  find("clock").textContent = `${clock(times[place])} · ${place + 1}/${times.length}`;
  for (const pane of state.panes) if (pane.details) pane.goTo(times[place]);
}

function stopPlaying() {
  clearInterval(state.timer);
  state.timer = null;
  find("play").textContent = "Play";
}

find("play").addEventListener("click", () => {
  if (state.timer !== null) return stopPlaying();
  const next = () => go((Number(find("time").value) + 1) % state.panes[0].times.length);
  state.timer = setInterval(next, 350);
  find("play").textContent = "Pause";
});
find("measure").addEventListener("click", () => measure().catch(complain));
find("time").addEventListener("input", (event) => go(Number(event.target.value)));
for (const id of ["colours", "borders"]) find(id).addEventListener("change", () => state.panes.forEach((pane) => pane.draw()));
