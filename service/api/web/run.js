// One edit from submit to result: what the visitor sees while it waits and runs.

import * as api from "./api.js";
import { byId, show } from "./dom.js";

const NUM_PREVIEWS = 3;
const PLACE_POLL_MS = 1500;

/** Runs one edit at a time. `titleOf` names a plugin, `onPlan` and `onPreview` tell what comes. */
export class Run {
  constructor({ titleOf, onPlan, onPreview }) {
    Object.assign(this, { titleOf, onPlan, onPreview });
    this.jobId = null;
    byId("cancel").addEventListener("click", () => this.cancel());
  }

  get isRunning() {
    return !byId("progress").hidden;
  }

  /** {job, blob} of the finished edit; Problem if it was refused, failed or canceled. */
  async edit(photo, mask, fields) {
    this.begin();
    try {
      const queued = await api.submit(photo, mask, { ...fields, previews: NUM_PREVIEWS });
      this.jobId = queued.id;
      this.say("Waiting in the queue");
      this.tellPlace(queued.id);
      byId("cancel").focus();
      const job = await api.watch(queued.id, (event) => this.follow(event));
      if (job.error) throw new api.Problem({ ...job.error, title: titleOfError(job) });
      this.say("Fetching the result", 1);
      return { job, blob: await api.result(job.id) };
    } finally {
      this.end();
    }
  }

  async cancel() {
    byId("cancel").disabled = true;
    if (this.jobId) await api.cancel(this.jobId).catch(() => {}); // it may have ended meanwhile
  }

  /** While it waits, how many are before it: the events do not tell. */
  async tellPlace(id) {
    this.isWaiting = true;
    while (this.isWaiting && this.jobId === id) {
      const { queue_position: place } = await api.job(id).catch(() => ({}));
      if (place && this.isWaiting && this.jobId === id) this.say(placeInQueue(place));
      await new Promise((resolve) => setTimeout(resolve, PLACE_POLL_MS));
    }
  }

  follow({ status, plan, progress, preview }) {
    this.isWaiting = status === "queued";
    if (plan) this.onPlan(plan);
    if (preview) this.onPreview(preview);
    if (progress && status === "running") this.followProgress(progress);
    else if (status === "planning") this.say("Choosing the tasks");
    else if (status === "running") this.say("Preparing");
  }

  followProgress({ plugin, task, num_tasks, step, num_steps }) {
    const title = this.titleOf(plugin);
    const which = num_tasks > 1 ? ` (task ${task} of ${num_tasks})` : "";
    this.say(`${title}${which}, step ${step} of ${num_steps}`, (task - 1 + step / num_steps) / num_tasks);
  }

  say(text, share = null) {
    byId("stage").textContent = text;
    if (share === null) byId("bar").removeAttribute("value");
    else byId("bar").value = share;
    byId("live").textContent = text;
  }

  begin() {
    this.jobId = null;
    byId("cancel").disabled = false;
    show(byId("restore"), false);
    show(byId("progress"), true);
    this.say("Sending the photo");
  }

  end() {
    this.isWaiting = false;
    const hadFocus = document.activeElement === byId("cancel");
    show(byId("progress"), false);
    show(byId("restore"), true);
    if (hadFocus) byId("restore").focus();
  }
}

function placeInQueue(place) {
  return place === 1 ? "Next in the queue" : `Waiting in the queue, ${place - 1} before this one`;
}

function titleOfError(job) {
  const titles = { canceled: "Canceled", expired: "It took too long", failed: "It did not work" };
  return titles[job.status] ?? "It did not work";
}
