// A conversation as a file.

import { seconds, settingText } from "./dom.js";

export function asJson(name, turns) {
  return JSON.stringify({ video: name, turns }, null, 2);
}

export function asMarkdown(name, turns) {
  const lines = [`# Questions about ${plain(name)}`, ""];
  for (const { question, answers } of turns) {
    lines.push(`**${plain(question)}**`, "");
    for (const { setting, text, error, details, total } of answers) {
      lines.push(plain(error ?? text), "");
      const times = details ? `, first token ${seconds(details.ttft_ms)}, in all ${seconds(total)}` : "";
      const tokens = details ? `, ${details.tokens_out} of ${details.tokens_in} video tokens` : "";
      lines.push(`*${settingText(setting)}${tokens}${times}*`, "");
    }
  }
  return lines.join("\n");
}

/** Keep Markdown from reading a text as markup. */
const plain = (text) => text.replace(/[\\`*_{}[\]<>#|]/g, "\\$&");
