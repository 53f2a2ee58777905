// Questions about the chosen video, each answered at every setting that is shown.

import { withTimes } from "./answer.js";
import * as api from "./api.js";
import { complain, download, find, make, seconds, settingText } from "./dom.js";
import { asJson, asMarkdown } from "./export.js";
import { questionsFor } from "./library.js";
import { noteAnswer, panes, request, seek } from "./viewer.js";

const state = { file: null, turns: [], open: null };
const stored = (file) => `turns ${file.id}`;

/** Go on with the conversation about a video; null for none. */
export function showChat(file) {
  state.open?.abort();
  Object.assign(state, { file, open: null });
  state.turns = file ? JSON.parse(sessionStorage.getItem(stored(file)) ?? "[]") : [];
  find("turns").replaceChildren(...state.turns.map(turnElement));
  find("question").placeholder = file ? "Ask about this video" : "Choose a video first";
  find("question").disabled = find("send").disabled = !file;
  find("export").hidden = !file;
  find("ideas").replaceChildren(...questionsFor(file).map(({ text }) =>
    make("li", {}, make("button", { type: "button", textContent: text, onclick: () => ask(text) }))));
}

function turnElement(turn) {
  const answers = turn.answers.map((answer) => {
    const element = make("div", { className: "answer" });
    showAnswer(element, answer, turn);
    return element;
  });
  return make("article", { className: "turn" },
    make("p", { className: "asked", textContent: turn.question }),
    make("div", { className: `answers${answers.length > 1 ? " two" : ""}` }, ...answers));
}

function showAnswer(element, answer, turn) {
  const { text, error, details, total, setting, slot } = answer;
  const meta = [turn.answers.length > 1 ? `${slot}: ${settingText(setting)}` : settingText(setting)];
  if (details) meta.push(`first token ${seconds(details.ttft_ms)}`, `total ${seconds(total)}`);
  if (details && turn.expected) meta.push(text === turn.expected ? "✓\u00a0right" : `✗ right:\u00a0${turn.expected}`);
  const body = error ? make("p", { className: "error", textContent: error }) : make("p", {}, ...withTimes(text, seek));
  if (!details && !error) body.append(make("span", { className: "cursor" }));
  const log = find("turns"), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  element.replaceChildren(body, make("p", { className: "faint small", textContent: meta.join(" · ") }));
  if (atEnd) log.scrollTop = log.scrollHeight;
}

async function ask(question) {
  const file = state.file;
  if (!file || state.open || !question.trim()) return;
  const open = (state.open = new AbortController());
  const expected = questionsFor(file).find(({ text }) => text === question)?.answer;
  const answers = panes().map((pane) => ({ slot: pane.slot, setting: pane.setting, text: "" }));
  const turn = { question, expected, answers };
  const before = [...state.turns];
  state.turns.push(turn);
  const element = turnElement(turn);
  find("turns").append(element);
  find("turns").scrollTop = find("turns").scrollHeight;
  find("send").hidden = true;
  find("stop").hidden = false;
  const places = element.querySelectorAll(".answer");
  await Promise.all(answers.map((answer, index) => answerOne(file, before, turn, answer, places[index], open)));
  sessionStorage.setItem(stored(file), JSON.stringify(before.concat(turn)));
  if (state.open === open) state.open = null;
  find("send").hidden = false;
  find("stop").hidden = true;
}

async function answerOne(file, before, turn, answer, element, open) {
  const start = performance.now(), show = () => showAnswer(element, answer, turn);
  const messages = before.flatMap(({ question, answers }) => {
    const earlier = answers.find(({ slot, details }) => slot === answer.slot && details);
    return earlier ? [{ role: "user", content: question }, { role: "assistant", content: earlier.text }] : [];
  });
  messages.push({ role: "user", content: turn.question });
  try {
    const add = (text) => {
      answer.text += text;
      show();
    };
    answer.details = await api.ask(request(answer.setting, messages, file), add, open.signal);
    answer.total = performance.now() - start;
    noteAnswer(file, answer.slot, answer.details);
  } catch (error) {
    answer.error = error.name === "AbortError" ? `${answer.text} (stopped)` : error.message;
  }
  show();
}

async function exportAs(kind) {
  const name = state.file.filename.replace(/\.\w+$/, "") || "video";
  if (kind === "md") download(`${name}.md`, asMarkdown(state.file.filename, state.turns), "text/markdown");
  if (kind === "json") download(`${name}.json`, asJson(state.file.filename, state.turns), "application/json");
  if (kind === "html") download(`${name}.html`, await api.report(panes()[0].id), "text/html");
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = find("question");
  ask(field.value);
  field.value = "";
});
find("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  find("ask").requestSubmit();
});
find("stop").addEventListener("click", () => state.open?.abort());
for (const button of find("export").children) button.addEventListener("click", () => exportAs(button.dataset.as).catch(complain));
