// A stack of images with its attention painted over; one pane per attention, all at the same image.
import {
  button,
  caseControls,
  cleanup,
  element,
  formatNumber,
  frame,
  listen,
  makeCanvas,
  observeSize,
  onEnd,
  onThemeChange,
  pageColours,
  paintControls,
  palette,
  slider,
  traitChoice,
} from "./common.js";
import { hasArrived, isInLesion, lesionOutline, readStack, samplesAt, takeImages, weightAt } from "./stack.js";
import { BAR, drawBar, drawPicture, drawStrip, STRIP } from "./stack_drawing.js";

const WANTED = 384; // page pixels of a picture's longer side, as near as whole pixels come
const LONGEST = 640;
const NARROWEST = 280; // of what is drawn below a picture
const GAP = 12;
const REST = 60; // milliseconds for which one stays with a case before all its images are asked for
const TURN = 50; // of the wheel until the next image, in page pixels
const LOOK = ["scaling", "opacity", "threshold", "colour_map"];
const SCALINGS = [
  ["case", "whole case by its largest weight"],
  ["image", "each image by its own largest"],
];
const HINT = "Point at the picture, or press shift and arrow keys, to read a pixel.";

const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));

// How many page pixels a pixel of the images takes, for `n` panes in a line of `room` page pixels.
function zoomFor(stack, n, room) {
  const share = (room - GAP * (n - 1)) / n;
  const side = Math.max(stack.height, stack.width);
  const widest = share < NARROWEST ? room : share;
  return Math.min(Math.max(1, Math.round(WANTED / side)), LONGEST / side, widest / stack.width);
}

// What is drawn of one attention: the picture, the strip of weights and the colour bar.
function makePane(stack, { title, about, was_trained_on: wasTrainedOn, critical }, zoom, goTo) {
  const [width, height] = [stack.width * zoom, stack.height * zoom];
  const wide = Math.max(width, NARROWEST);
  const picture = makeCanvas(width, height, "");
  const strip = makeCanvas(wide, STRIP.height, "");
  const bar = makeCanvas(wide, BAR.height, "");
  bar.canvas.removeAttribute("tabindex");
  strip.canvas.classList.add("mil-strip");
  const full = element("div", { class: "mil-full" });
  const jumpLabel = `go to the critical instance of ${title}, the image with the largest weight (key c)`;
  const jump = button("critical instance", jumpLabel, () => goTo(critical));
  const head = element("div", { class: "mil-pane-head" }, element("b", {}, title), jump);
  const facts = element("div", { class: wasTrainedOn ? "mil-about mil-trained-on" : "mil-about" }, about);
  const parts = [head, facts, picture.canvas, strip.canvas, bar.canvas, full];
  const root = element("div", { class: "mil-pane", role: "group", "aria-label": title }, ...parts);
  root.style.width = `${wide}px`;
  const unscaled = element("canvas", { width: stack.width, height: stack.height });
  const small = unscaled.getContext("2d", { willReadFrequently: true });
  const pixels = small.createImageData(stack.width, stack.height);
  return { root, picture, bar, strip, full, small, pixels, zoom, width, height, wide };
}

// What is shown of an image and of the pixel at `point`, in words, for eyes and for screen readers.
function describe(stack, image, point) {
  const hasTwo = stack.attention.length > 1;
  const ofEach = (weightOf) => {
    const texts = stack.attention.map((attention) => {
      const text = formatNumber(weightOf(attention));
      return hasTwo ? `${text} (${attention.title})` : text;
    });
    return texts.join(", ");
  };
  const hasOneWeight = stack.attention.every((attention) => attention.size === 1);
  let shows = "";
  if (stack.has_lesion) shows = stack.has_lesion[image] ? ", shows the lesion" : ", no lesion";
  const weights = `${hasOneWeight ? "weight" : "largest weight"} ${ofEach(({ largest }) => largest[image])}`;
  const ofImage = `${nameOf(stack, image)}: ${weights}${shows}`;
  if (!hasArrived(stack, image)) return [ofImage, "The image is on its way."];
  if (!point) return [ofImage, HINT];
  const pixel = point.row * stack.width + point.column;
  const what = stack.samples === 3 ? "red, green, blue" : `${stack.channel} grey value`;
  let where = "";
  if (stack.lesion) where = isInLesion(stack, image, pixel) ? ", in the lesion" : ", not in the lesion";
  const place = `row ${point.row + 1}, column ${point.column + 1}`;
  const values = `${what} ${samplesAt(stack, image, pixel).join(", ")}`;
  const weight = `weight ${ofEach((attention) => weightAt(attention, image, pixel))}`;
  return [ofImage, `${place}: ${values}, ${weight}${where}`];
}

function nameOf(stack, image) {
  const number = `image ${image + 1} of ${stack.count}`;
  return stack.names ? `${stack.names[image]}, ${number}` : number;
}

// Where in a canvas the pointer is: across and down, from 0 to 1.
function placeOf(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

export default {
  render({ model, el }) {
    const { controls, body } = frame(model, el, "images and their attention");
    let stack = null;
    let image = 0;
    let point = null; // the pixel that is read out
    let panes = [];
    let laidOut = null; // what the panes were made for
    let colours = {};
    let asking = null; // the timer after which all images are asked for

    const channel = traitChoice(model, el, { label: "channel", name: "channel", options: [] });
    const format = (i) => (stack ? `${i + 1} of ${stack.count}` : "");
    const images = slider("image", { min: 0, max: 0, step: 1, value: 0, format }, (i) => goTo(i));
    const outlined = element("input", { type: "checkbox", checked: true, onchange: () => draw() });
    const outlineControl = element("label", { class: "mil-control" }, outlined, "lesion outline");
    const scaling = traitChoice(model, el, { label: "scaling", name: "scaling", options: SCALINGS });
    const looks = [...paintControls(model, el), scaling.root, outlineControl];
    controls.append(caseControls(model, el), channel.root, images.root, ...looks);

    const heading = element("div", { class: "mil-heading" });
    const line = element("div", { class: "mil-panes" });
    const [ofImage, ofPixel] = [element("div"), element("div")];
    body.append(heading, line, element("div", { class: "mil-readout", role: "status" }, ofImage, ofPixel));

    const setBusy = (isBusy) => {
      body.ariaBusy = isBusy;
    };

    function open() {
      if (!model.get("opened")) return;
      const before = stack?.case;
      clearTimeout(asking);
      stack = readStack(model);
      if (stack.case !== before) {
        image = stack.attention[0].critical;
        point = null;
      }
      images.input.max = stack.count - 1;
      images.set(image);
      const options = stack.channels.map((name) => [name, name]);
      channel.offer(options, stack.channel);
      channel.root.hidden = stack.channels.length < 2;
      outlineControl.hidden = !stack.lesion;
      heading.textContent = stack.title || stack.case;
      laidOut = null;
      layOut();
      asking = stack.isWhole ? null : setTimeout(askForImages, REST);
      setBusy(!stack.isWhole);
    }

    function askForImages() {
      if (!asking) return;
      clearTimeout(asking);
      asking = null;
      model.send({ images: stack.case });
    }

    function receiveImages() {
      if (!stack || !model.get("images").byteLength) return;
      takeImages(stack, model);
      setBusy(false);
      draw();
    }

    function layOut() {
      if (!stack) return;
      colours = { ...pageColours(el), font: getComputedStyle(controls).fontFamily };
      const missing = stack.nothing_beside;
      const room = controls.clientWidth || 900; // nothing is known of a page that is not there yet
      const zoom = zoomFor(stack, stack.attention.length + (missing ? 1 : 0), room);
      const wanted = JSON.stringify([zoom, missing]);
      if (laidOut !== wanted) {
        panes = stack.attention.map((attention) => makePane(stack, attention, zoom, goTo));
        panes.forEach(handlePointer);
        line.replaceChildren(...panes.map((pane) => pane.root));
        const attributes = { class: "mil-message mil-nothing-beside", role: "note" };
        if (missing) line.append(element("p", attributes, missing));
        laidOut = wanted;
      }
      draw();
    }

    function draw() {
      if (!stack) return;
      const [scalingChosen, opacity, threshold, map] = LOOK.map((name) => model.get(name));
      const look = { scaling: scalingChosen, opacity, threshold, map, colours: palette(model, map) };
      const border = outlined.checked && stack.has_lesion?.[image] && lesionOutline(stack, image);
      const now = { image, look, border, point, colours };
      panes.forEach((pane, i) => {
        const attention = stack.attention[i];
        drawPicture(pane, stack, attention, now);
        drawBar(pane, attention, now);
        drawStrip(pane, stack, attention, now);
        pane.picture.canvas.setAttribute("aria-label", `${attention.title}: ${nameOf(stack, image)}`);
      });
      [ofImage.textContent, ofPixel.textContent] = describe(stack, image, point);
    }

    function goTo(wanted) {
      image = clamp(wanted, stack.count);
      images.set(image);
      if (!hasArrived(stack, image)) askForImages();
      draw();
    }

    function readPixel(wanted) {
      point = wanted && { row: clamp(wanted.row, stack.height), column: clamp(wanted.column, stack.width) };
      draw();
    }

    let turned = 0; // a touch pad reports one turn of the wheel in many small parts
    function onWheel(event) {
      event.preventDefault();
      turned += event.deltaY * (event.deltaMode ? 33 : 1);
      if (Math.abs(turned) < TURN) return;
      goTo(image + Math.sign(turned));
      turned = 0;
    }

    function handlePointer({ picture, strip }) {
      const pick = (event) => {
        if (event.buttons) goTo(Math.floor(placeOf(event)[0] * stack.count));
      };
      strip.canvas.addEventListener("pointerdown", pick);
      strip.canvas.addEventListener("pointermove", pick);
      picture.canvas.addEventListener("wheel", onWheel, { passive: false });
      picture.canvas.addEventListener("pointerleave", () => readPixel(null));
      picture.canvas.addEventListener("pointermove", (event) => {
        const [across, down] = placeOf(event);
        readPixel({ row: Math.floor(down * stack.height), column: Math.floor(across * stack.width) });
      });
    }

    // What a key does, or undefined. Only `c` acts outside the panes, for a slider has its own arrow keys.
    function actionOf(event, i) {
      if (event.key === "c") return () => goTo(stack.attention[Math.max(0, i)].critical);
      const jumps = { PageUp: image - 10, PageDown: image + 10, Home: 0, End: stack.count - 1 };
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      if (i < 0) return undefined;
      if (event.key in jumps) return () => goTo(jumps[event.key]);
      if (!(event.key in steps)) return undefined;
      const [down, across] = steps[event.key];
      if (!event.shiftKey) return () => goTo(image + down + across);
      const middle = { row: stack.height >> 1, column: stack.width >> 1 };
      return () => readPixel(point ? { row: point.row + down, column: point.column + across } : middle);
    }

    function onKey(event) {
      if (!stack || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
      const act = actionOf(
        event,
        panes.findIndex((pane) => pane.root.contains(event.target)),
      );
      if (!act) return;
      act();
      event.preventDefault();
    }

    controls.addEventListener("keydown", onKey);
    body.addEventListener("keydown", onKey);
    for (const name of LOOK) listen(model, `change:${name}`, draw, el);
    listen(model, "change:opened", open, el);
    listen(model, "change:images", receiveImages, el);
    for (const name of ["case", "channel"]) listen(model, `change:${name}`, () => setBusy(true), el);
    listen(model, "change:message", () => setBusy(false), el);
    observeSize(el, [body], layOut);
    onEnd(el, () => clearTimeout(asking));
    onThemeChange(el, layOut);
    open();
    return cleanup(el);
  },
};
