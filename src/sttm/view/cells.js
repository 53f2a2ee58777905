// Draws the cells of a merged video: for the report of `sttm show` and for the page of `sttm ui`.

/** What `sttm.view.page_data` gives, and what follows from it. */
export class Cells {
  constructor(data) {
    Object.assign(this, data);
    const bytes = Uint8Array.from(atob(data.label), (c) => c.charCodeAt(0));
    this.label = new Int32Array(bytes.buffer);
    this.perFrame = data.rows * data.columns;
    this.fresh = new Array(data.steps).fill(0); // tokens that are counted in each step
    for (const step of data.first) this.fresh[step] += 1;
    this.size = new Array(data.tokensOut).fill(0); // input tokens of each token
    this.lives = Array.from({ length: data.tokensOut }, () => []); // steps of each token
    this.label.forEach((token, index) => {
      if (token < 0) return;
      this.size[token] += 1;
      const step = Math.floor(index / this.perFrame), seen = this.lives[token];
      if (seen[seen.length - 1] !== step) seen.push(step);
    });
  }

  /** The token of a cell; -1 where it was dropped. */
  tokenAt(step, row, column) {
    return this.label[(step * this.rows + row) * this.columns + column];
  }

  /** The token under a mouse pointer; null if there is none. */
  tokenUnder(canvas, event, step) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / box.height * this.rows);
    const column = Math.floor((event.clientX - box.left) / box.width * this.columns);
    if (row < 0 || column < 0 || row >= this.rows || column >= this.columns) return null;
    const token = this.tokenAt(step, row, column);
    return token < 0 ? null : token;
  }
}

const TINT = 0.3; // opacity of a colour

/** Neighbouring numbers get distant hues, and a token has one as long as it lives. */
const hue = (token) => `hsl(${(token * 137.508) % 360} 85% 55%)`;

/** Draw a picture in a size at which borders stay thin. */
export function drawPicture(canvas, picture) {
  const { naturalWidth, naturalHeight } = picture;
  const factor = Math.max(1, Math.min(Math.ceil(960 / naturalWidth), Math.ceil(1920 / naturalHeight)));
  const width = naturalWidth * factor, height = naturalHeight * factor;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0, width, height);
  return { pen, width, height };
}

/**
 * Draw one time step.
 *
 * options.colours: every token of several cells in its own colour. options.fade: pale where a token
 * without one is counted in an earlier step. options.borders: lines between tokens. options.mark: a
 * token to stand out; null for none.
 */
export function drawCells(canvas, picture, cells, step, options) {
  const { pen, width, height } = drawPicture(canvas, picture);
  const x = (column) => Math.ceil(column * width / cells.columns);
  const y = (row) => Math.ceil(row * height / cells.rows);
  const boxes = [];
  for (let row = 0; row < cells.rows; row++) for (let column = 0; column < cells.columns; column++) {
    const box = [x(column), y(row), x(column + 1) - x(column), y(row + 1) - y(row)];
    boxes.push([cells.tokenAt(step, row, column), row, column, box]);
  }
  const mark = options.mark ?? null;
  for (const [token, , , box] of boxes) {
    if (token < 0) fill(pen, "#000", cells.dropped, box);
    else if (options.colours && cells.size[token] > 1) fill(pen, hue(token), TINT, box);
    else if (options.fade && cells.first[token] !== step) fill(pen, cells.paper, cells.pale, box);
    if (mark !== null && token !== mark) fill(pen, "#000", 0.5, box);
  }
  const thin = Math.max(1, Math.round(width / 800));
  const draw = (cell, ...style) => drawBorders(pen, cells, step, cell, ...style);
  if (options.borders) boxes.forEach((cell) => draw(cell, thin, cells.line, () => true));
  if (mark !== null) boxes.forEach((cell) => draw(cell, 3 * thin, 1, (token) => token === mark));
}

function fill(pen, colour, alpha, box) {
  pen.globalAlpha = alpha;
  pen.fillStyle = colour;
  pen.fillRect(...box);
  pen.globalAlpha = 1;
}

function drawBorders(pen, cells, step, [token, row, column, box], thick, alpha, wanted) {
  const [left, top, width, height] = box;
  const draw = (other, vertical) => {
    if (other === token || !(wanted(token) || wanted(other))) return;
    fill(pen, "#181818", alpha, vertical ? [left - thick, top, thick, height] : [left, top - thick, width, thick]);
    fill(pen, "#fff", alpha, vertical ? [left, top, thick, height] : [left, top, width, thick]);
  };
  if (column > 0) draw(cells.tokenAt(step, row, column - 1), true);
  if (row > 0) draw(cells.tokenAt(step, row - 1, column), false);
}
