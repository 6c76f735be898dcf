// Boxes over a picture, and the same objects as rows of a table.

const SVG = "http://www.w3.org/2000/svg";
const TEXT = 14; // height of the names, in pixels of the screen

/** A class's colour: neighbours in the list are far apart on the colour wheel (steps of the golden angle). */
export const colour = (label) => `hsl(${(label * 137.508 + 205) % 360} 85% 62%)`;

/**
 * Draw one box with its name for each object, best last so that it lies on top.
 *
 * @param svg lies over the picture and covers it whole.
 * @param size [width, height] of the picture, in the pixels that the boxes are in.
 * @param found objects {name, label, score, box: [left, top, right, bottom]}, best first.
 */
export function drawBoxes(svg, size, found) {
  const [width, height] = size;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", summary(found));
  const unit = width / (svg.clientWidth || width); // pixels of the picture in one of the screen
  svg.replaceChildren(...found.map((object) => drawn(object, unit)).reverse());
  for (const group of svg.children) fitTag(group, unit, width);
}

function drawn({ name, label, score, box: [left, top, right, bottom] }, unit) {
  const group = element("g", { "data-label": label });
  const tint = colour(label);
  group.append(
    element("rect", { class: "box", x: left, y: top, width: right - left, height: bottom - top, stroke: tint }),
    element("rect", { class: "tag", fill: tint }),
    element("text", { x: left, y: top, "font-size": TEXT * unit }, `${name} ${score.toFixed(2)}`),
  );
  return group;
}

/** Put the name's background behind it: above the box where there is room, else inside, and never beside the picture. */
function fitTag(group, unit, width) {
  const [box, tag, text] = group.children;
  const high = 1.35 * TEXT * unit;
  const wide = text.getComputedTextLength() + 8 * unit;
  const left = Math.max(0, Math.min(Number(box.getAttribute("x")), width - wide));
  const above = Number(box.getAttribute("y")) - high;
  const top = above >= 0 ? above : Number(box.getAttribute("y"));
  set(tag, { x: left, y: top, width: wide, height: high });
  set(text, { x: left + 4 * unit, y: top + 1.02 * TEXT * unit });
}

/** Fill the table with one row for each object; pointing at a row marks its box. */
export function listObjects(body, svg, found) {
  const rows = found.map(({ name, score, box }, place) => {
    const row = document.createElement("tr");
    for (const text of [name, score.toFixed(2), box.map((side) => side.toFixed(0)).join(", ")]) {
      row.insertCell().textContent = text;
    }
    const mark = (on) => svg.children[found.length - 1 - place]?.classList.toggle("marked", on);
    row.addEventListener("pointerenter", () => mark(true));
    row.addEventListener("pointerleave", () => mark(false));
    return row;
  });
  body.replaceChildren(...rows);
}

/** "3 objects: 2 cat, 1 dog", for those who do not see the boxes. */
export function summary(found) {
  const counts = new Map();
  for (const { name } of found) counts.set(name, (counts.get(name) ?? 0) + 1);
  const total = found.length === 1 ? "1 object" : `${found.length} objects`;
  return found.length ? `${total}: ${[...counts].map(([name, count]) => `${count} ${name}`).join(", ")}` : "No objects";
}

function element(tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  set(made, attributes);
  made.textContent = text;
  return made;
}

function set(target, attributes) {
  for (const [name, value] of Object.entries(attributes)) target.setAttribute(name, value);
}
