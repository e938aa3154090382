// Before and after on one stage: a slider between them, or side by side; zoom and pan move both.

import { byId, press, show } from "./dom.js";

const MAX_ZOOM = 16;
const STEP = 1.25;
const PAN_PX = 60;

/** `zoom` 1 fits the picture; `x` and `y` are the picture's point in the middle, in its pixels. */
export class Viewer {
  constructor() {
    this.canvas = byId("canvas");
    this.before = byId("before");
    this.after = byId("after");
    this.size = { width: 1, height: 1 };
    this.mode = "split";
    this.pointers = new Map();
    this.onPlace = () => {}; // the mask follows
    this.fit();
    this.listen();
  }

  /** Another photo, with nothing beside it yet. */
  open(photo) {
    this.size = photo;
    this.before.src = photo.url;
    this.showAfter(null);
    this.fit();
  }

  /** The picture to compare with, a result or a preview; null for none. */
  showAfter(url, label = "After") {
    if (url) this.after.src = url;
    else this.after.removeAttribute("src");
    byId("after-tag").textContent = label;
    show(this.after, url !== null);
    show(byId("modes"), url !== null);
    this.canvas.classList.toggle("compares", url !== null);
    this.place();
  }

  setMode(mode) {
    this.mode = mode;
    this.canvas.dataset.mode = mode;
    press(byId("mode-split"), mode === "split");
    press(byId("mode-side"), mode === "side");
    this.place();
  }

  fit() {
    this.zoom = 1;
    this.x = this.size.width / 2;
    this.y = this.size.height / 2;
    this.place();
  }

  zoomBy(factor, at = null) {
    const zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const anchor = at ?? { x: this.x, y: this.y };
    // The point under the pointer stays where it is.
    this.x = anchor.x - ((anchor.x - this.x) * this.zoom) / zoom;
    this.y = anchor.y - ((anchor.y - this.y) * this.zoom) / zoom;
    this.zoom = zoom;
    this.place();
  }

  panBy(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.place();
  }

  // -- geometry ------------------------------------------------------------------------------

  /** The part of the stage that shows one picture. */
  get pane() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const isSplit = this.mode !== "side" || this.after.hidden || this.canvas.classList.contains("masking");
    return { width: isSplit ? width : width / 2, height };
  }

  /** Screen pixels per picture pixel. */
  get scale() {
    const { width, height } = this.pane;
    const fit = Math.min(width / this.size.width, height / this.size.height, 4);
    return fit * this.zoom;
  }

  /** The picture's point at a pointer. */
  pointAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.pane;
    const left = (event.clientX - box.left) % width;
    const top = event.clientY - box.top;
    return {
      x: this.x + (left - width / 2) / this.scale,
      y: this.y + (top - height / 2) / this.scale,
    };
  }

  place() {
    const { width, height } = this.pane;
    const scale = this.scale;
    this.x = within(this.x, this.size.width, width / scale);
    this.y = within(this.y, this.size.height, height / scale);
    const left = width / 2 - this.x * scale;
    const top = height / 2 - this.y * scale;
    for (const layer of [this.before, this.after, byId("mask")]) {
      layer.style.width = `${this.size.width * scale}px`;
      layer.style.height = `${this.size.height * scale}px`;
      layer.style.transform = `translate(${left}px, ${top}px)`;
    }
    this.canvas.style.setProperty("--split", `${byId("split").value}%`);
    this.canvas.classList.toggle("zoomed", this.zoom > 1);
    byId("zoom").textContent = `${Math.round(100 * this.zoom)} %`;
    byId("zoom-out").disabled = byId("zoom-fit").disabled = this.zoom <= 1;
    byId("zoom-in").disabled = this.zoom >= MAX_ZOOM;
    this.onPlace();
  }

  // -- input ---------------------------------------------------------------------------------

  listen() {
    new ResizeObserver(() => this.place()).observe(this.canvas);
    byId("zoom-in").addEventListener("click", () => this.zoomBy(STEP));
    byId("zoom-out").addEventListener("click", () => this.zoomBy(1 / STEP));
    byId("zoom-fit").addEventListener("click", () => this.fit());
    byId("mode-split").addEventListener("click", () => this.setMode("split"));
    byId("mode-side").addEventListener("click", () => this.setMode("side"));
    byId("split").addEventListener("input", () => this.place());
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    this.canvas.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
  }

  onKey(event) {
    const moves = { ArrowLeft: [PAN_PX, 0], ArrowRight: [-PAN_PX, 0], ArrowUp: [0, PAN_PX], ArrowDown: [0, -PAN_PX] };
    if (event.target !== this.canvas) return; // the slider and the mask have keys of their own
    if (event.key === "+" || event.key === "=") this.zoomBy(STEP);
    else if (event.key === "-") this.zoomBy(1 / STEP);
    else if (event.key === "0") this.fit();
    else if (moves[event.key] && this.zoom > 1) this.panBy(...moves[event.key]);
    else return;
    event.preventDefault();
  }

  onWheel(event) {
    // At the smallest zoom the wheel scrolls the page as elsewhere.
    if (event.deltaY > 0 && this.zoom <= 1) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 400), this.pointAt(event));
  }

  onDown(event) {
    if (event.target.id === "split" || event.target.id === "mask") return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  onMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    const others = [...this.pointers.values()].filter((other) => other.pointerId !== event.pointerId);
    if (others.length) {
      const distance = (to) => Math.hypot(to.clientX - others[0].clientX, to.clientY - others[0].clientY);
      this.zoomBy(distance(event) / Math.max(1, distance(last)), this.pointAt(others[0]));
    } else {
      this.panBy(event.clientX - last.clientX, event.clientY - last.clientY);
    }
    this.pointers.set(event.pointerId, event);
  }
}

/** The middle such that a picture larger than the pane leaves no gap, and a smaller one is centred. */
function within(middle, size, visible) {
  return visible >= size ? size / 2 : Math.min(size - visible / 2, Math.max(visible / 2, middle));
}
