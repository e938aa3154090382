// What was made during this visit. It lives in the page: a reload forgets it.

import { byId, element, show } from "./dom.js";

/** `onShow(visit)` is called when the visitor takes one out again. */
export class History {
  constructor(onShow) {
    this.onShow = onShow;
    this.visits = [];
  }

  /** visit: {photo, url, title, job, ...}; the newest comes first. */
  add(visit) {
    this.visits.unshift(visit);
    this.draw(visit);
  }

  draw(shown) {
    show(byId("history"), this.visits.length > 0);
    byId("visits").replaceChildren(...this.visits.map((visit) => this.item(visit, visit === shown)));
  }

  item(visit, isShown) {
    const button = element(
      "button", { type: "button" },
      element("img", { src: visit.url, alt: "", width: 120, height: 90 }),
      element("span", { className: "what" }, visit.title),
      element("span", { className: "seed" }, `Seed ${visit.job.request.seed}`),
    );
    if (isShown) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      this.draw(visit);
      byId("visits").children[this.visits.indexOf(visit)].firstChild.focus();
      this.onShow(visit);
    });
    return element("li", {}, button);
  }
}
