// Where photos come from: a file, a drop, the clipboard, a sample. Out comes a photo with its size.

import { byId, element } from "./dom.js";

export const SAMPLES = [
  { name: "rain", title: "Rain", instruction: "remove the rain" },
  { name: "snow", title: "Snow", instruction: "remove the snow" },
  { name: "haze", title: "Haze", instruction: "clear the haze" },
  { name: "dark-rain", title: "Dark and rainy", instruction: "remove the rain, then brighten it" },
];

/** {file, url, width, height}, upright as the service sees it; Error if it cannot be shown. */
export async function readPhoto(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(
      `${file.name || "This"} cannot be opened as a picture. PNG, JPEG, WebP, AVIF and BMP work here.`,
    );
  }
  const { width, height } = bitmap;
  bitmap.close();
  return { file, url: URL.createObjectURL(file), width, height };
}

/** Call `take(file, instruction)` for every photo that the visitor hands over. */
export function acceptPhotos(take) {
  const input = byId("file");
  for (const id of ["choose", "replace"]) byId(id).addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  acceptDrops(take);
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (!file) return; // text goes where it is pasted
    event.preventDefault();
    take(file);
  });
  listSamples(take);
}

function acceptDrops(take) {
  const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) mark(false);
  });
  document.addEventListener("drop", (event) => {
    mark(false);
    const file = event.dataTransfer.files[0];
    if (!file) return;
    event.preventDefault();
    take(file);
  });
}

function listSamples(take) {
  for (const { name, title, instruction } of SAMPLES) {
    const url = `/web/samples/${name}.jpg`;
    const picture = element("img", { src: url, alt: "", width: 96, height: 72, loading: "lazy" });
    const button = element("button", { type: "button" }, picture, element("span", {}, title));
    button.addEventListener("click", async () => {
      const blob = await (await fetch(url)).blob();
      take(new File([blob], `${name}.jpg`, { type: blob.type }), instruction);
    });
    byId("samples").append(element("li", {}, button));
  }
}
