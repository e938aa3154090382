// The page put together: a photo, a plan, a run, a comparison. What each part does it does not know.

import * as api from "./api.js";
import { byId, element, show } from "./dom.js";
import { History } from "./history.js";
import { Mask } from "./mask.js";
import { acceptPhotos, readPhoto } from "./photo.js";
import { PlanEditor } from "./plan.js";
import { Run } from "./run.js";
import { Viewer } from "./viewer.js";

const HEALTH_POLL_MS = 15_000;
const EXTENSIONS = { "image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/avif": "avif" };

const instruction = byId("instruction");
let photo = null;
let shown = null; // the visit that is on the stage
let isSentenceNewer = false; // than the plan: then the sentence is what runs

const viewer = new Viewer();
const plan = new PlanEditor(() => {
  isSentenceNewer = false;
  describePlan();
});
const mask = new Mask(viewer, describeMask);
const history = new History(showVisit);
const run = new Run({
  titleOf: (name) => plan.titleOf(name),
  onPlan: takePlan,
  onPreview: ({ media_type, base64 }) => viewer.showAfter(`data:${media_type};base64,${base64}`, "Preview"),
});

// -- photo ------------------------------------------------------------------------------------

async function takePhoto(file, sentence) {
  if (run.isRunning) return complain(new Error("Wait for this edit to end, or cancel it."));
  try {
    photo = await readPhoto(file);
  } catch (error) {
    return complain(error);
  }
  complain(null);
  show(byId("drop"), false);
  show(byId("viewer"), true);
  show(byId("result"), false);
  viewer.open(photo);
  mask.open(false);
  mask.reset(photo);
  if (sentence) {
    instruction.value = sentence;
    plan.clear();
    isSentenceNewer = true;
  }
  history.draw(null);
  describePlan();
  tell(`Photo of ${photo.width} by ${photo.height} pixels.`);
  instruction.focus({ preventScroll: true });
}

// -- plan -------------------------------------------------------------------------------------

async function makePlan() {
  const sentence = instruction.value.trim();
  if (!checkPhoto()) return;
  if (!sentence) return complain(new Error("Say what should be done, or press a task."), instruction);
  byId("make-plan").disabled = true;
  byId("plan-note").textContent = "Reading the sentence…";
  try {
    takePlan(await api.plan(photo.file, sentence));
    complain(null);
    tell(plan.runnable.length ? `Plan: ${plan.describe()}.` : "No task fits this sentence.");
  } catch (error) {
    complain(error);
    describePlan();
  } finally {
    byId("make-plan").disabled = false;
  }
}

function takePlan(proposed) {
  if (proposed.source === "request") return; // it is the plan of this page
  plan.propose(proposed);
  isSentenceNewer = false;
  describePlan(proposed);
}

function describePlan(proposed = null) {
  const isStale = isSentenceNewer && plan.tasks.length > 0;
  byId("plan").classList.toggle("stale", isStale);
  byId("plan-note").textContent = noteOfPlan(isStale, proposed);
}

function noteOfPlan(isStale, proposed) {
  if (isStale) return "The sentence is newer than this plan: it is read again before it runs.";
  if (proposed && !proposed.tasks.length) {
    return "No task fits this sentence, so the photo would stay as it is. Say it in other words, or press a task.";
  }
  if (plan.tasks.length) return "The tasks that will run, in order. You can change it before it runs.";
  return instruction.value.trim()
    ? "The sentence is read when you press Plan or Restore."
    : "Nothing yet: say what should be done, or press a task.";
}

// -- run --------------------------------------------------------------------------------------

function fields() {
  const isByPlan = plan.runnable.length > 0 && !isSentenceNewer;
  return {
    instruction: instruction.value.trim(),
    plugins: isByPlan ? plan.runnable.join(",") : "",
    seed: byId("seed").value.trim(),
    steps: byId("steps").value.trim(),
    strength: byId("strength").value,
    output_format: byId("format").value,
    metadata: byId("metadata").value,
  };
}

async function restore(changes = {}) {
  const asked = { ...fields(), ...changes };
  if (run.isRunning || !checkPhoto()) return;
  if (!asked.instruction && !asked.plugins) {
    return complain(new Error("Say what should be done, or press a task."), instruction);
  }
  complain(null);
  show(byId("result"), false);
  mask.open(false);
  viewer.showAfter(null);
  history.draw(null);
  try {
    const { job, blob } = await run.edit(photo.file, await mask.file(), asked);
    const title = plan.describe(runnableOf(job)) || "Unchanged";
    const visit = { photo, job, blob, asked, title, url: URL.createObjectURL(blob), strokes: mask.strokes };
    history.add(visit);
    showVisit(visit);
    tell(visit.job.no_op ? "Nothing was to be done." : `Done: ${visit.title}.`);
  } catch (error) {
    viewer.showAfter(shown?.photo === photo ? shown.url : null);
    complain(error);
  }
}

const runnableOf = (job) => job.plan.tasks.filter((task) => task.installed).map((task) => task.plugin);

function showVisit(visit) {
  shown = visit;
  if (photo !== visit.photo) {
    photo = visit.photo;
    mask.open(false);
    mask.reset(photo);
    mask.set(visit.strokes);
    viewer.open(photo);
  }
  viewer.showAfter(visit.url);
  const { job, blob } = visit;
  byId("result-title").textContent = job.no_op ? "Nothing was to be done" : "Restored";
  const facts = {
    Tasks: job.no_op ? "no task fits the sentence" : visit.title,
    Seed: job.request.seed,
    Time: `${job.timings.total_s.toFixed(1)} s, of which ${job.timings.denoise_s.toFixed(1)} s denoising`,
  };
  byId("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]),
  );
  byId("download").href = visit.url;
  byId("download").download = `${visit.photo.file.name.replace(/\.[^.]*$/, "")}-restored.${EXTENSIONS[blob.type] ?? "png"}`;
  show(byId("result"), true);
}

/** The same photo and tasks, so only the seed differs. */
function anotherSeed() {
  restore({ ...shown.asked, plugins: runnableOf(shown.job).join(","), seed: "" });
}

function goOn() {
  takePhoto(new File([shown.blob], byId("download").download, { type: shown.blob.type }));
}

// -- what is said -----------------------------------------------------------------------------

function checkPhoto() {
  if (!photo) complain(new Error("Choose a photo first, or take one of the samples."), byId("choose"));
  return photo !== null;
}

function complain(error, focusOn = null) {
  const alert = byId("alert");
  show(alert, error !== null);
  if (!error) return;
  const retry = error.retryAfterS ? ` Try again in ${error.retryAfterS} seconds.` : "";
  alert.replaceChildren(
    ...(error.title ? [element("strong", {}, error.title)] : []),
    element("span", {}, error.message + retry),
  );
  show(byId("key-field"), error.code === "unauthenticated");
  focusOn?.focus();
}

/** Take the key, and see whether it opens the door. */
async function takeKey() {
  api.useKey(byId("key").value.trim());
  try {
    plan.setPlugins(await api.plugins());
    show(byId("key-field"), false);
    complain(null);
  } catch (error) {
    complain(error);
  }
}

const tell = (text) => (byId("live").textContent = text);

function describeMask() {
  byId("mask-hint").textContent = mask.isEmpty
    ? "Paint what is to be restored; the rest stays as it is."
    : "Only what is painted will be restored.";
  byId("brush").classList.toggle("has-mask", !mask.isEmpty);
}

async function checkHealth() {
  const { status, missing } = await api.readiness();
  const texts = { ready: "Ready", not_ready: "Not ready", unreachable: "No connection" };
  byId("health").textContent = texts[status] ?? status;
  byId("health").dataset.status = status;
  byId("health").title = missing.join("; ");
}

// -- start ------------------------------------------------------------------------------------

acceptPhotos(takePhoto);
byId("make-plan").addEventListener("click", makePlan);
byId("another").addEventListener("click", anotherSeed);
byId("key").addEventListener("change", takeKey);
byId("go-on").addEventListener("click", goOn);
byId("panel").addEventListener("submit", (event) => {
  event.preventDefault();
  if (document.activeElement !== byId("key")) restore(); // Enter there hands in the key
});
instruction.addEventListener("input", () => {
  isSentenceNewer = instruction.value.trim() !== "";
  describePlan();
});
instruction.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  makePlan();
});
describePlan();
describeMask();
checkHealth();
setInterval(checkHealth, HEALTH_POLL_MS);
api.plugins().then((list) => plan.setPlugins(list), complain);
