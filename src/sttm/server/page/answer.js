// Texts of answers: times in them can be clicked.

import { make } from "./dom.js";

const TIME = /\[(?:(\d{1,2}):)?(\d{1,3}):(\d{2})\]/g; // [mm:ss] or [h:mm:ss]

/** Split a text into texts and buttons that seek. */
export function withTimes(text, seek) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(TIME)) {
    const [hours, minutes, rest] = match.slice(1).map((digits) => Number(digits ?? 0));
    const time = 3600 * hours + 60 * minutes + rest;
    parts.push(text.slice(end, match.index));
    parts.push(make("button", { type: "button", className: "time", textContent: match[0].slice(1, -1), onclick: () => seek(time) }));
    end = match.index + match[0].length;
  }
  return [...parts, text.slice(end)];
}
