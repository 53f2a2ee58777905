// The server's own API, the same that other clients use.

let key = sessionStorage.getItem("key") ?? "";
let askForKey = () => {};

export function onKeyWanted(show) {
  askForKey = show;
}

export function useKey(value) {
  key = value;
  sessionStorage.setItem("key", value);
}

/** Send a request; an error carries the server's sentence. */
async function send(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `sttm ui` still running?", { cause: error });
  }
  if (response.ok) return response;
  if (response.status === 401) askForKey();
  const body = await response.json().catch(() => null);
  throw new Error(sentence(body) ?? `The server answered with status ${response.status}.`);
}

const sentence = (body) => {
  const text = body?.error?.message;
  return text && text[0].toUpperCase() + text.slice(1);
};

const json = async (path, options) => (await send(path, options)).json();
const part = encodeURIComponent;

export const list = async (what) => (await json(`/v1/${what}`)).data;
export const remove = (what, id) => json(`/v1/${what}/${part(id)}`, { method: "DELETE" });
export const video = (id) => json(`/v1/videos/${part(id)}`);
export const report = async (id) => (await send(`/v1/videos/${part(id)}/report.html`)).text();
export const sample = async (name) => (await send(`/v1/samples/${part(name)}`)).blob();
export const frame = async (id, index) => (await send(`/v1/videos/${part(id)}/frames/${index}.jpg`)).blob();

export function upload(content, name) {
  const body = new FormData();
  body.append("purpose", "user_data");
  body.append("file", content, name);
  return json("/v1/files", { method: "POST", body });
}

/** Ask; onText is given the pieces of the answer. Returns what the server says about it. */
export async function ask(body, onText, signal) {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", details = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(sentence(event));
      const text = event.choices[0]?.delta.content;
      if (text) onText(text);
      details = event.sttm ?? details;
    }
  }
  if (!details) throw new Error("The answer broke off. Ask again.");
  return details;
}
