// One setting of the reduction: its controls, its cells on the frames, its counts and times.

import * as api from "./api.js";
import { Cells, drawCells, drawPicture } from "./cells.js";
import { complain, find, make, percent, seconds, settingText, shape } from "./dom.js";

export class Pane {
  /**
   * about: what the server says of itself. hooks: watch(pane) asks for the pane's video, seek(step)
   * goes to a frame.
   */
  constructor(slot, setting, about, hooks) {
    this.slot = slot;
    this.setting = { ...setting };
    this.hooks = hooks;
    this.element = find("pane").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.element.querySelector(selector);
    this.mark = null;
    this.clear();
    this.part(".slot").textContent = slot;
    const method = this.part(".method"), keep = this.part(".keep");
    method.append(...about.methods.map((name) => make("option", { textContent: name })));
    method.value = setting.method;
    keep.max = String(100 * about.max_keep);
    keep.value = String(Math.round(100 * setting.keep));
    this.showKeep();
    method.addEventListener("change", () => this.choose());
    keep.addEventListener("input", () => this.showKeep());
    keep.addEventListener("change", () => this.choose());
    this.part(".bars").addEventListener("click", (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      hooks.seek(Math.floor((event.clientX - box.left) / box.width * this.times.length));
    });
    const canvas = this.part("canvas");
    canvas.addEventListener("pointermove", (event) => this.point(this.cells?.tokenUnder(canvas, event, this.step) ?? null));
    canvas.addEventListener("pointerleave", () => this.point(null));
  }

  choose() {
    this.setting = { method: this.part(".method").value, keep: Number(this.part(".keep").value) / 100 };
    this.hooks.watch(this);
  }

  showKeep() {
    const value = Number(this.part(".keep").value);
    this.part("output").textContent = value === 100 ? "all" : `${value} %`;
    this.part(".keep").setAttribute("aria-valuetext", value === 100 ? "all tokens" : `${value} percent of the tokens`);
    this.part(".method").disabled = value === 100;
  }

  clear() {
    Object.assign(this, { id: null, facts: null, cells: null, times: [], pictures: [], details: null, step: 0 });
    const canvas = this.part("canvas");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    canvas.removeAttribute("aria-label");
    for (const name of [".facts", ".bars"]) this.part(name).replaceChildren();
  }

  busy(text) {
    this.part(".busy").hidden = !text;
    this.part(".busy").textContent = text;
  }

  /** Show a watched video: what the server knows of it, then its frames. */
  async show(details) {
    this.details = details;
    if (this.id !== details.video_id) {
      const facts = await api.video(details.video_id);
      this.id = details.video_id;
      this.facts = facts;
      this.cells = facts.cells && new Cells(facts.cells);
      this.times = this.cells?.times ?? facts.timestamps;
      const frames = this.cells?.frameOfStep ?? facts.timestamps.map((_, index) => index);
      this.pictures = new Array(frames.length).fill(null);
      this.load(facts.id, frames).catch(complain);
    }
    this.showFacts();
  }

  async load(id, frames) {
    const one = async (step) => {
      const picture = new Image();
      picture.src = URL.createObjectURL(await api.frame(id, frames[step]));
      await picture.decode();
      URL.revokeObjectURL(picture.src);
      if (this.id !== id) return;
      this.pictures[step] = picture;
      if (step === this.step) this.draw();
    };
    await one(this.step < frames.length ? this.step : 0); // the server decodes once
    for (let step = 0; step < frames.length && this.id === id; step += 6) {
      const some = frames.slice(step, step + 6).map((_, place) => step + place);
      await Promise.all(some.filter((each) => !this.pictures[each]).map(one));
    }
  }

  /** Go to the frame that shows at a time. */
  goTo(time) {
    const later = this.times.findIndex((each) => each > time + 1e-6);
    this.step = Math.max(0, (later < 0 ? this.times.length : later) - 1);
    this.draw();
  }

  fresh(step) {
    return this.cells ? this.cells.fresh[step] : this.details.tokens_out / this.times.length;
  }

  draw() {
    const canvas = this.part("canvas"), picture = this.pictures[this.step];
    this.drawBars();
    if (!picture) return;
    if (this.cells) {
      const on = (id) => find(id).checked;
      drawCells(canvas, picture, this.cells, this.step, { colours: on("colours"), borders: on("borders"), mark: this.mark });
    } else drawPicture(canvas, picture);
    canvas.setAttribute("aria-label", `Frame ${this.step + 1} of ${this.times.length}, ${Math.round(this.fresh(this.step))} new tokens`);
  }

  drawBars() {
    const bars = this.part(".bars"), count = this.times.length;
    const wide = 480 / count, gap = Math.min(2, wide / 4);
    const most = this.details.tokens_in / count;
    const lives = this.mark === null ? [] : this.cells.lives[this.mark];
    const bar = (step, height, name) =>
      shape("rect", { x: step * wide, y: 60 - height, width: wide - gap, height, class: name });
    bars.replaceChildren(...this.times.flatMap((_, step) => [
      bar(step, 60, step === this.step ? "here" : "rest"),
      bar(step, Math.max(1, 60 * this.fresh(step) / most), step === this.step ? "now" : "bar"),
      ...(lives.includes(step) ? [shape("rect", { x: step * wide, y: 61, width: wide, height: 3, class: "now" })] : []),
    ]));
    bars.setAttribute("aria-label", `New tokens per frame, at most ${Math.round(most)}`);
  }

  point(token) {
    if (token === this.mark) return;
    this.mark = token;
    this.draw();
    const seen = token === null ? [] : this.cells.lives[token];
    find("life").textContent = !seen.length ? "Point at a cell to follow its token." :
      `One token for ${this.cells.size[token]} cells in ${seen.length} frame${seen.length > 1 ? "s" : ""}`;
  }

  showFacts() {
    const { tokens_in: all, tokens_out: kept, retention, ttft_ms: first, cached } = this.details;
    const fact = (name, value) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }));
    this.part(".facts").replaceChildren(
      fact("Video tokens", `${all} → ${kept}`),
      fact("Retention", percent(retention)),
      fact("Per frame", String(Math.round(kept / this.times.length))),
      fact(cached ? "First token" : "Watch and first token", seconds(first)));
  }

  get text() {
    return settingText(this.setting);
  }
}
