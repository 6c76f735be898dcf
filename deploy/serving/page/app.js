// The page: a picture or the camera on the left, what was found in it on the right. The server is asked once for a
// picture, with the lowest score there is; the slider and the classes choose among its answer.

import { Camera } from "./camera.js";
import { colour, drawBoxes, listObjects, summary } from "./overlay.js";
import { NeedsToken, bundles, detect, useToken } from "./server.js";

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const camera = new Camera(page.video);

let known = []; // bundles of this server
let file = null; // the picture that is shown
let answer = null; // {found, size}: what the server said of it
let asked = 0; // pictures sent so far: an answer to an earlier one comes too late
let times = []; // when the last answers came, for pictures a second
let retry = null; // what a token was missing for

const bundle = () => known[page.model.selectedIndex];
const wanted = () => new Set([...page.classes.querySelectorAll(":checked")].map((box) => Number(box.value)));

async function start() {
  known = await bundles();
  page.model.replaceChildren(...known.map(({ name }) => new Option(name)));
  page.model.disabled = known.length === 0;
  chooseBundle();
}

function chooseBundle() {
  const { about, classes, score } = bundle();
  page.about.textContent = about;
  page.threshold.value = score;
  asked += 1;
  page.classes.replaceChildren(...classes.map(classChip));
  page.search.hidden = classes.length < 13;
  answer = null;
  show();
}

/** A class to switch on and off, with the colour of its boxes and how many there are. */
function classChip(name, label) {
  const chip = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, value: label });
  const dot = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  dot.setAttribute("viewBox", "0 0 2 2");
  const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [key, value] of Object.entries({ cx: 1, cy: 1, r: 1, fill: colour(label) })) circle.setAttribute(key, value);
  dot.append(circle);
  chip.append(box, dot, name, document.createElement("b"));
  return chip;
}

/** Show of the answer what the slider and the classes leave. */
function show() {
  const lowest = Number(page.threshold.value);
  page.shown.textContent = lowest.toFixed(2);
  const all = answer?.found ?? [];
  const above = all.filter(({ score }) => score >= lowest);
  const classes = wanted();
  const found = above.filter(({ label }) => classes.has(label));
  drawBoxes(page.boxes, answer?.size ?? [1, 1], found);
  listObjects(page.found, page.boxes, found);
  for (const chip of page.classes.children) {
    const label = Number(chip.firstChild.value);
    const count = above.filter((object) => object.label === label).length;
    chip.lastChild.textContent = count || "";
  }
  const cut = answer?.full && above.length === all.length; // the graph's table ended before the lowest score
  page.count.setAttribute("aria-live", camera.running ? "off" : "polite"); // nobody can listen to every frame
  page.count.textContent = answer ? summary(found) + (cut ? ", and perhaps more: the graph gives no more" : "") : "";
}

function say(sentence) {
  page.message.textContent = sentence;
  page.message.hidden = !sentence;
}

/** Do what may fail, and say why it did. */
async function attempt(work) {
  say("");
  try {
    await work();
  } catch (error) {
    if (error instanceof NeedsToken) {
      retry = () => attempt(work);
      page.access.hidden = false;
      page.token.focus();
    }
    say(error.message);
  }
}

/** Send a picture, and show what is found in it unless another one was sent meanwhile. */
async function ask(picture) {
  if (!bundle()) await start();
  const turn = ++asked;
  const before = performance.now();
  const reply = await detect(bundle().name, picture);
  if (turn !== asked) return;
  const now = performance.now();
  times = [...times.filter((time) => now - time < 2000), now];
  const rate = (1000 * (times.length - 1)) / (now - times[0]);
  page.timing.textContent =
    `${(now - before).toFixed(0)} ms (${reply.milliseconds.toFixed(0)} ms in the server)` +
    (camera.running && times.length > 2 ? `, ${rate.toFixed(1)} pictures/s` : "");
  answer = reply;
  show();
}

async function showPicture(chosen) {
  stopCamera();
  file = chosen;
  answer = null;
  URL.revokeObjectURL(page.picture.src);
  page.picture.src = URL.createObjectURL(file);
  page.picture.alt = file.name;
  page.picture.hidden = false;
  page.stage.classList.remove("empty");
  show();
  const drawn = page.picture.decode().then(() => true, () => false);
  await ask(file);
  if (await drawn) return;
  giveStage(...answer.size);
  say("This browser cannot show a picture of this kind; its boxes are right all the same.");
}

async function startCamera() {
  page.camera.disabled = true;
  try {
    await camera.start();
  } finally {
    page.camera.disabled = false;
  }
  page.camera.textContent = "Stop the camera";
  page.camera.setAttribute("aria-pressed", "true");
  file = null;
  answer = null;
  times = [];
  page.picture.hidden = true;
  page.video.hidden = false;
  page.stage.classList.remove("empty");
  show();
  try {
    await camera.each(ask);
  } catch (error) {
    stopCamera();
    throw error;
  }
}

function stopCamera() {
  if (!camera.running) return;
  camera.stop();
  asked += 1; // what is on its way is of no interest any more
  answer = null;
  page.camera.textContent = "Start the camera";
  page.camera.setAttribute("aria-pressed", "false");
  page.video.hidden = true;
  page.timing.textContent = "";
  page.stage.classList.add("empty");
  show();
}

/** The shape of the picture; its size on the screen follows from the room there is. */
function giveStage(width, height) {
  page.stage.style.setProperty("--ratio", width / height);
}

function setAllClasses(on) {
  for (const box of page.classes.querySelectorAll("label:not([hidden]) input")) box.checked = on;
  show();
}

page.file.addEventListener("change", () => page.file.files.length && attempt(() => showPicture(page.file.files[0])));
page.file.addEventListener("click", () => (page.file.value = "")); // so that the same file can be chosen again
page.camera.addEventListener("click", () => (camera.running ? stopCamera() : attempt(startCamera)));
page.picture.addEventListener("load", () => giveStage(page.picture.naturalWidth, page.picture.naturalHeight));
page.video.addEventListener("resize", () => giveStage(page.video.videoWidth, page.video.videoHeight));
page.threshold.addEventListener("input", show);
page.classes.addEventListener("change", show);
page.all.addEventListener("click", () => setAllClasses(true));
page.none.addEventListener("click", () => setAllClasses(false));
page.search.addEventListener("input", () => {
  const text = page.search.value.toLowerCase();
  for (const chip of page.classes.children) chip.hidden = !chip.textContent.toLowerCase().includes(text);
});
page.model.addEventListener("change", () => {
  chooseBundle();
  if (file) attempt(() => ask(file));
});
page.access.addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(page.token.value);
  page.access.hidden = true;
  retry();
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) attempt(() => showPicture(event.dataTransfer.files[0]));
});
new ResizeObserver(show).observe(page.stage); // names keep their size on the screen

attempt(start);
