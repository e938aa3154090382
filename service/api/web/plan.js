// The plan: which tasks run, in which order. The selector proposes it, the visitor edits it.

import { byId, element, icon, press, show } from "./dom.js";

/** Tasks to press and the ordered list. `onChange` is called when the visitor changes the plan. */
export class PlanEditor {
  constructor(onChange) {
    this.onChange = onChange;
    this.titles = new Map(); // of the installed plugins, by name
    this.clear();
  }

  /** The installed plugins, as GET /v1/plugins has them. */
  setPlugins(plugins) {
    this.titles = new Map(plugins.map((plugin) => [plugin.name, plugin.title]));
    this.draw();
  }

  /** What the selector says: tasks, scores, threshold. */
  propose(plan) {
    this.tasks = plan.tasks;
    this.scores = plan.scores;
    this.threshold = plan.threshold;
    this.draw();
  }

  clear() {
    this.tasks = [];
    this.scores = {};
    this.threshold = null;
    this.draw();
  }

  /** Names of the plugins to run, in order. */
  get runnable() {
    return this.tasks.filter((task) => task.installed).map((task) => task.plugin);
  }

  titleOf(name) {
    return this.titles.get(name) ?? name;
  }

  describe(names = this.runnable) {
    return names.map((name) => this.titleOf(name)).join(", then ");
  }

  add(name) {
    this.change([...this.tasks, { plugin: name, score: this.scores[name] ?? null, installed: true }]);
  }

  remove(index) {
    this.change(this.tasks.filter((_, i) => i !== index));
  }

  move(from, to) {
    const tasks = [...this.tasks];
    tasks.splice(to, 0, ...tasks.splice(from, 1));
    this.change(tasks);
  }

  change(tasks) {
    this.tasks = tasks;
    this.draw();
    this.onChange();
  }

  // -- drawing -------------------------------------------------------------------------------

  draw() {
    this.drawChips();
    byId("plan-list").replaceChildren(...this.tasks.map((task, i) => this.row(task, i)));
    show(byId("plan-list"), this.tasks.length > 0);
  }

  drawChips() {
    const focused = document.activeElement?.dataset?.plugin;
    byId("tasks").replaceChildren(...[...this.titles].map(([name, title]) => this.chip(name, title)));
    if (focused) byId("tasks").querySelector(`[data-plugin="${focused}"]`)?.focus();
  }

  chip(name, title) {
    const index = this.tasks.findIndex((task) => task.plugin === name);
    const button = element("button", { type: "button", "data-plugin": name }, title);
    press(button, index >= 0);
    button.prepend(icon(index >= 0 ? "check" : "plus"));
    const score = this.scores[name];
    if (score !== undefined) button.append(element("small", { title: "Score" }, score.toFixed(2)));
    button.addEventListener("click", () => (index >= 0 ? this.remove(index) : this.add(name)));
    return element("li", {}, button);
  }

  row(task, index) {
    const title = this.titleOf(task.plugin);
    const row = element(
      "li", { className: task.installed ? "" : "missing", draggable: true, "data-plugin": task.plugin },
      element("span", { className: "name" }, title), this.scoreOf(task),
      element("span", { className: "moves" },
        this.button("up", `Move ${title} up`, index === 0, () => this.moveByKey(index, -1)),
        this.button("down", `Move ${title} down`, index === this.tasks.length - 1, () => this.moveByKey(index, 1)),
        this.button("close", `Remove ${title}`, false, () => this.removeByKey(index))),
    );
    this.makeDraggable(row, index);
    return row;
  }

  scoreOf(task) {
    if (!task.installed) return element("span", { className: "score" }, "not installed, will not run");
    if (task.score === null) return element("span", { className: "score" }, "chosen by you");
    const meter = element("meter", { min: 0, max: 1, value: Math.max(0, task.score) });
    meter.setAttribute("aria-label", "Score");
    if (this.threshold !== null) meter.title = `Chosen from ${this.threshold.toFixed(2)} on`;
    return element("span", { className: "score" }, meter, task.score.toFixed(2));
  }

  button(name, label, isDisabled, onClick) {
    const made = element("button", { type: "button", disabled: isDisabled, title: label, "aria-label": label }, icon(name));
    made.addEventListener("click", onClick);
    return made;
  }

  /** The pressed button's row is drawn anew: the focus goes with the task. */
  moveByKey(index, by) {
    this.move(index, index + by);
    const buttons = byId("plan-list").children[index + by].querySelectorAll("button");
    const same = buttons[by < 0 ? 0 : 1];
    (same.disabled ? buttons[by < 0 ? 1 : 0] : same).focus();
  }

  removeByKey(index) {
    this.remove(index);
    const rows = byId("plan-list").children;
    const next = rows[Math.min(index, rows.length - 1)]?.querySelector("button:last-child");
    (next ?? byId("instruction")).focus();
  }

  makeDraggable(row, index) {
    row.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData("text/x-task", String(index));
      event.dataTransfer.effectAllowed = "move";
    });
    row.addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("text/x-task")) event.preventDefault();
    });
    row.addEventListener("drop", (event) => {
      const from = event.dataTransfer.getData("text/x-task");
      if (from === "") return;
      event.preventDefault();
      event.stopPropagation();
      this.move(Number(from), index);
    });
  }
}
