// The list of videos: uploads, samples, and what the server still has from before.

import * as api from "./api.js";
import { complain, find, make } from "./dom.js";

const state = { files: [], samples: [], busy: new Set(), chosen: null, choose: () => {} };
let opened = Promise.resolve(); // a file that is added waits for the list, which would replace it

/** Fill the list; `choose` is called with a file, or with null when it is gone. */
export function openLibrary(choose) {
  return (opened = fill(choose));
}

async function fill(choose) {
  state.choose = choose;
  const [files, samples] = await Promise.all([api.list("files"), api.list("samples")]);
  Object.assign(state, { files, samples });
  find("samples").hidden = !samples.length;
  draw();
}

export function questionsFor(file) {
  return state.samples.find((sample) => sample.name === file?.filename)?.questions ?? [];
}

/** Note that a file was watched. */
export function noteWatched(file, id) {
  if (!file.videos.includes(id)) file.videos.push(id);
  draw();
}

function draw() {
  find("videos").replaceChildren(...state.files.map(row), ...[...state.busy].map(waiting));
  const names = state.files.map((file) => file.filename);
  const left = state.samples.filter((sample) => !names.includes(sample.name));
  find("samples").querySelector("ul").replaceChildren(...left.map(sampleRow));
}

function row(file) {
  const watched = file.videos.length;
  const note = watched ? `watched${watched > 1 ? ` at ${watched} settings` : ""}` : "not watched yet";
  const size = `${(file.bytes / 2 ** 20).toFixed(file.bytes < 2 ** 20 ? 2 : 1)} MiB`;
  const open = make("button", { type: "button", className: "open", onclick: () => choose(file) },
    make("b", { textContent: file.filename || file.id }),
    make("span", { className: "faint small", textContent: `${size}, ${note}` }));
  open.setAttribute("aria-current", String(file === state.chosen));
  const remove = make("button", { type: "button", className: "quiet", textContent: "×", title: "Delete", onclick: () => drop(file).catch(complain) });
  remove.setAttribute("aria-label", `Delete ${file.filename}`);
  return make("li", {}, open, remove);
}

const waiting = (name) => make("li", { className: "faint", textContent: `Uploading ${name} …` });

function sampleRow(sample) {
  const open = make("button", { type: "button", className: "open", onclick: () => addSample(sample) },
    make("b", { textContent: sample.name }),
    make("span", { className: "faint small", textContent: "32 s, coloured digits" }));
  return make("li", {}, open);
}

function choose(file) {
  state.chosen = file;
  draw();
  state.choose(file);
}

async function drop(file) {
  for (const id of file.videos) await api.remove("videos", id).catch(() => {}); // gone from the store
  await api.remove("files", file.id);
  state.files = state.files.filter((other) => other !== file);
  if (state.chosen === file) choose(null);
  draw();
}

async function add(content, name) {
  state.busy.add(name);
  draw();
  try {
    await opened.catch(() => {}); // whoever opened it says so
    const file = await api.upload(content, name);
    state.files.unshift(file);
    return file;
  } finally {
    state.busy.delete(name);
    draw();
  }
}

async function addSample(sample) {
  try {
    choose(await add(await api.sample(sample.name), sample.name));
  } catch (error) {
    complain(error);
  }
}

async function addFiles(files) {
  let first = null;
  for (const content of files) {
    try {
      const file = await add(content, content.name);
      first ??= file;
    } catch (error) {
      complain(new Error(`${content.name}: ${error.message}`));
    }
  }
  if (first) choose(first);
}

function listen() {
  const area = find("drop"), input = find("files");
  input.addEventListener("change", () => {
    addFiles([...input.files]);
    input.value = "";
  });
  const over = (event, is) => {
    event.preventDefault();
    area.classList.toggle("over", is);
  };
  document.addEventListener("dragover", (event) => over(event, true));
  document.addEventListener("dragleave", (event) => over(event, false));
  document.addEventListener("drop", (event) => {
    over(event, false);
    addFiles([...event.dataTransfer.files]);
  });
}

listen();
