// The mask: strokes of a brush over the photo, and the PNG that the service gets of them.

import { byId, isPressed, press, show } from "./dom.js";

/** Strokes are kept in pixels of the photo, so that they can be undone one by one. */
export class Mask {
  constructor(viewer, onChange) {
    this.viewer = viewer;
    this.onChange = onChange;
    this.layer = byId("mask");
    this.pencil = this.layer.getContext("2d");
    this.strokes = [];
    this.stroke = null;
    this.at = { x: 0, y: 0 };
    viewer.onPlace = () => this.drawCursor();
    this.listen();
  }

  /** Start anew on a photo of this size. */
  reset({ width, height }) {
    this.layer.width = width;
    this.layer.height = height;
    this.at = { x: width / 2, y: height / 2 };
    byId("brush-size").value = Math.round(Math.max(8, Math.min(200, width / 10)));
    this.set([]);
  }

  get isEmpty() {
    return !this.strokes.some((stroke) => !stroke.isErasing);
  }

  get isOpen() {
    return isPressed(byId("brush"));
  }

  open(isOpen) {
    press(byId("brush"), isOpen);
    show(byId("mask-tools"), isOpen);
    show(byId("mask-pane"), isOpen || !this.isEmpty);
    this.viewer.canvas.classList.toggle("masking", isOpen);
    show(byId("cursor"), isOpen);
    if (isOpen) this.layer.focus();
    this.viewer.place(); // while masking one picture has the whole stage
  }

  /** PNG, white where something was painted; null if nothing was. */
  async file() {
    if (this.isEmpty) return null;
    const { width, height } = this.layer;
    const white = new OffscreenCanvas(width, height);
    const whitener = white.getContext("2d");
    whitener.drawImage(this.layer, 0, 0);
    whitener.globalCompositeOperation = "source-in";
    whitener.fillStyle = "#fff";
    whitener.fillRect(0, 0, width, height);
    const page = new OffscreenCanvas(width, height);
    const pencil = page.getContext("2d");
    pencil.fillRect(0, 0, width, height);
    pencil.drawImage(white, 0, 0);
    return page.convertToBlob({ type: "image/png" });
  }

  set(strokes) {
    this.strokes = strokes;
    this.pencil.clearRect(0, 0, this.layer.width, this.layer.height);
    strokes.forEach((stroke) => this.draw(stroke));
    byId("undo").disabled = byId("clear").disabled = strokes.length === 0;
    show(byId("mask-pane"), this.isOpen || !this.isEmpty);
    this.onChange();
  }

  draw({ points, size, isErasing }) {
    this.pencil.globalCompositeOperation = isErasing ? "destination-out" : "source-over";
    this.pencil.strokeStyle = "#e5484d";
    this.pencil.lineWidth = size;
    this.pencil.lineCap = this.pencil.lineJoin = "round";
    this.pencil.beginPath();
    this.pencil.moveTo(points[0].x, points[0].y);
    points.forEach((point) => this.pencil.lineTo(point.x, point.y));
    this.pencil.stroke();
  }

  // -- input ---------------------------------------------------------------------------------

  listen() {
    byId("brush").addEventListener("click", () => this.open(!this.isOpen));
    byId("undo").addEventListener("click", () => this.set(this.strokes.slice(0, -1)));
    byId("clear").addEventListener("click", () => this.set([]));
    for (const [id, isErasing] of [["paint", false], ["erase", true]]) {
      byId(id).addEventListener("click", () => this.setErasing(isErasing));
    }
    byId("brush-size").addEventListener("input", () => this.drawCursor());
    this.layer.addEventListener("pointerdown", (event) => this.begin(event));
    this.layer.addEventListener("pointermove", (event) => this.follow(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.layer.addEventListener(name, () => this.end());
    }
    this.layer.addEventListener("keydown", (event) => this.onKey(event));
  }

  setErasing(isErasing) {
    press(byId("paint"), !isErasing);
    press(byId("erase"), isErasing);
  }

  begin(event) {
    if (!this.isOpen || event.button !== 0) return;
    event.stopPropagation();
    this.layer.setPointerCapture(event.pointerId);
    this.at = this.viewer.pointAt(event);
    this.stroke = this.dab();
    this.draw(this.stroke);
  }

  follow(event) {
    if (!this.isOpen) return;
    this.at = this.viewer.pointAt(event);
    this.drawCursor();
    if (!this.stroke) return;
    this.stroke.points.push(this.at);
    this.draw({ ...this.stroke, points: this.stroke.points.slice(-2) });
  }

  end() {
    if (!this.stroke) return;
    const stroke = this.stroke;
    this.stroke = null;
    this.set([...this.strokes, stroke]);
  }

  /** A stroke of one point, where the brush is. */
  dab() {
    return { points: [this.at], size: Number(byId("brush-size").value), isErasing: isPressed(byId("erase")) };
  }

  onKey(event) {
    const step = Number(byId("brush-size").value) / 2;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const key = event.key.toLowerCase();
    if (moves[event.key]) this.moveBy(...moves[event.key]);
    else if (key === " ") this.set([...this.strokes, this.dab()]);
    else if (key === "u") this.set(this.strokes.slice(0, -1));
    else if (key === "e") this.setErasing(!isPressed(byId("erase")));
    else if (key === "escape") byId("brush").focus(), this.open(false);
    else return;
    event.preventDefault();
  }

  moveBy(dx, dy) {
    this.at = {
      x: Math.min(this.layer.width, Math.max(0, this.at.x + dx)),
      y: Math.min(this.layer.height, Math.max(0, this.at.y + dy)),
    };
    this.drawCursor();
  }

  drawCursor() {
    const { width, height } = this.viewer.pane;
    const { scale, x, y } = this.viewer;
    const cursor = byId("cursor");
    const side = Number(byId("brush-size").value) * scale;
    cursor.style.width = cursor.style.height = `${side}px`;
    const left = width / 2 + (this.at.x - x) * scale - side / 2;
    const top = height / 2 + (this.at.y - y) * scale - side / 2;
    cursor.style.transform = `translate(${left}px, ${top}px)`;
  }
}
