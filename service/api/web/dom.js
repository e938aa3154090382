// The page's elements: found by id, made with their properties, and shown or hidden.

export const byId = (id) => document.getElementById(id);

/** An element; `properties` starting with "aria-" or "data-" become attributes. Children may be text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria|data)-/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function icon(name) {
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawn.setAttribute("class", "icon");
  drawn.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(drawn.namespaceURI, "use");
  use.setAttribute("href", `#i-${name}`);
  drawn.append(use);
  return drawn;
}

export function show(shown, isShown) {
  shown.hidden = !isShown;
}

/** Set one of two toggle buttons, or one alone. */
export function press(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}

export const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
