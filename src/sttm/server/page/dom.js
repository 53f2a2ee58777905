// Elements and numbers. Text goes in as text, never as HTML.

export const find = (id) => document.getElementById(id);

/** Make an element: properties, then children, which are elements or texts. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** 75 -> 1:15 */
export function clock(time) {
  const whole = Math.floor(time), rest = String(whole % 60).padStart(2, "0");
  return `${Math.floor(whole / 60)}:${rest}`;
}

export const settingText = ({ method, keep }) => (keep >= 1 ? "all tokens" : `${method}, ${percent(keep)}`);

let closing = null;

/** Show a sentence about what went wrong. */
export function complain(error) {
  if (error.name === "AbortError") return;
  const box = find("notice");
  box.firstElementChild.textContent = error.message;
  box.hidden = false;
  clearTimeout(closing);
  closing = setTimeout(() => (box.hidden = true), 12000);
}

export function download(name, content, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
