// The page of `sttm ui`: starts its parts, and connects them.

import * as api from "./api.js";
import { showChat } from "./chat.js";
import { complain, find } from "./dom.js";
import { openLibrary } from "./library.js";
import { openViewer, showVideo } from "./viewer.js";

function useTheme() {
  const root = document.documentElement, button = find("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    const chosen = localStorage.getItem("theme");
    const dark = chosen ? chosen === "dark" : system.matches;
    root.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
  };
  button.addEventListener("click", () => {
    localStorage.setItem("theme", root.dataset.theme === "dark" ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  show();
}

async function start() {
  const [{ id, sttm: about }] = await api.list("models");
  find("model").textContent = id;
  find("kept").textContent = about.is_kept
    ? "Videos and what was watched are kept when the server stops."
    : "Videos are kept until the server stops. Start it with --store DIR to keep them.";
  openViewer(id, about);
  await openLibrary((file) => {
    showChat(file);
    showVideo(file).catch(complain);
  });
}

api.onKeyWanted(() => {
  find("key").hidden = false;
  find("key-value").focus();
});
find("key").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useKey(find("key-value").value);
  location.reload();
});
find("notice").lastElementChild.addEventListener("click", () => (find("notice").hidden = true));
useTheme();
start().catch(complain);
