// A stack of images with its attention painted over; one pane per attention, all at the same image.
import { button, caseControls, element, ends, frame, listen, onThemeChange, paintControls, palette, slider, surface, theme, traitChoice, written } from "./common.js";
import { greyAt, inLesion, isThere, outline, readStack, takeImages, weightAt } from "./stack.js";
import { BAR, drawBar, drawPicture, drawStrip, STRIP } from "./stack_drawing.js";

const WANTED = 384; // page pixels of a picture's longer side, as near as whole pixels come
const LONGEST = 640;
const NARROWEST = 280; // of what is drawn below a picture
const GAP = 12;
const REST = 60; // milliseconds for which one stays with a case before all its images are sent
const LOOK = ["scaling", "opacity", "threshold", "colour_map"];
const SCALINGS = [["case", "whole case by its largest weight"], ["image", "each image by its own largest"]];

const within = (value, end) => Math.max(0, Math.min(end - 1, value));

// What is drawn of one attention: the picture, the strip of weights and the colour bar.
function makePane(stack, { title, about, was_trained_on: wasTrainedOn, critical }, zoom, go) {
  const [width, height] = [stack.width * zoom, stack.height * zoom];
  const wide = Math.max(width, NARROWEST);
  const [picture, strip, bar] = [[width, height], [wide, STRIP.height], [wide, BAR.height]].map(([across, down]) => surface(across, down, ""));
  bar.canvas.removeAttribute("tabindex");
  strip.canvas.classList.add("mil-strip");
  const full = element("div", { class: "mil-full" });
  const jump = button("critical instance", `go to the critical instance of ${title}, the image with the largest weight (key c)`, () => go(critical));
  const head = element("div", { class: "mil-pane-head" }, element("b", {}, title), jump);
  const facts = element("div", { class: wasTrainedOn ? "mil-about mil-trained-on" : "mil-about" }, about);
  const root = element("div", { class: "mil-pane", role: "group", "aria-label": title }, head, facts, picture.canvas, strip.canvas, bar.canvas, full);
  root.style.width = `${wide}px`;
  const small = element("canvas", { width: stack.width, height: stack.height }).getContext("2d", { willReadFrequently: true });
  return { root, picture, bar, strip, full, small, pixels: small.createImageData(stack.width, stack.height), zoom, width, height, wide };
}

export default {
  render({ model, el }) {
    const { controls, body } = frame(model, el, "images and their attention");
    let stack = null;
    let image = 0;
    let point = null; // the pixel that is read out
    let panes = [];
    let colours = {};
    let asking; // for the images that have not come with the case

    const channel = traitChoice(model, el, "channel", "channel", []);
    const images = slider("image", { min: 0, max: 0, step: 1, value: 0, show: (i) => (stack ? `${i + 1} of ${stack.count}` : "") }, (i) => go(i));
    const outlined = element("input", { type: "checkbox", checked: true, onchange: () => draw() });
    const outlineControl = element("label", { class: "mil-control" }, outlined, "lesion outline");
    controls.append(caseControls(model, el), channel.root, images.root, ...paintControls(model, el), traitChoice(model, el, "scaling", "scaling", SCALINGS).root, outlineControl);

    const heading = element("div", { class: "mil-heading" });
    const line = element("div", { class: "mil-panes" });
    const [ofImage, ofPixel] = [element("div"), element("div")];
    body.append(heading, line, element("div", { class: "mil-readout", role: "status" }, ofImage, ofPixel));

    function open() {
      if (!model.get("opened")) return;
      const before = stack?.case;
      clearTimeout(asking);
      stack = readStack(model);
      if (stack.case !== before) [image, point] = [stack.attention[0].critical, null];
      images.input.max = stack.count - 1;
      images.set(image);
      channel.offer(stack.channels.map((name) => [name, name]), stack.channel);
      channel.root.hidden = stack.channels.length < 2;
      outlineControl.hidden = !stack.lesion;
      heading.textContent = stack.title || stack.case;
      line.dataset.made = "";
      layOut();
      asking = stack.isWhole ? null : setTimeout(ask, REST);
      body.ariaBusy = !stack.isWhole;
    }

    function ask() {
      if (!asking) return;
      clearTimeout(asking);
      asking = null;
      model.send({ images: stack.case });
    }

    function takeRest() {
      if (!stack || !model.get("images").byteLength) return;
      takeImages(stack, model);
      body.ariaBusy = false;
      draw();
    }

    function layOut() {
      if (!stack) return;
      colours = { ...theme(el), font: getComputedStyle(controls).fontFamily };
      const missing = stack.nothing_beside;
      const n = stack.attention.length + (missing ? 1 : 0);
      const room = controls.clientWidth || 900; // nothing is known of a page that is not there yet
      const share = (room - GAP * (n - 1)) / n;
      const side = Math.max(stack.height, stack.width);
      const zoom = Math.min(Math.max(1, Math.round(WANTED / side)), LONGEST / side, (share < NARROWEST ? room : share) / stack.width);
      const made = JSON.stringify([zoom, missing]);
      if (line.dataset.made !== made) {
        panes = stack.attention.map((attention) => makePane(stack, attention, zoom, go));
        panes.forEach(handle);
        const sentence = missing ? [element("p", { class: "mil-message mil-nothing-beside", role: "note" }, missing)] : [];
        line.replaceChildren(...panes.map((pane) => pane.root), ...sentence);
        line.dataset.made = made;
      }
      draw();
    }

    function draw() {
      if (!stack) return;
      const [scaling, opacity, threshold, map] = LOOK.map((name) => model.get(name));
      const look = { scaling, opacity, threshold, map, colours: palette(model, map) };
      const border = outlined.checked && stack.has_lesion?.[image] && outline(stack, image);
      const now = { image, look, border, point, colours };
      panes.forEach((pane, i) => {
        drawPicture(pane, stack, stack.attention[i], now);
        drawBar(pane, stack.attention[i], now);
        drawStrip(pane, stack, stack.attention[i], now);
        pane.picture.canvas.setAttribute("aria-label", `${stack.attention[i].title}: ${nameOf(image)}`);
      });
      tell();
    }

    const nameOf = (i) => (stack.names ? `${stack.names[i]}, ` : "") + `image ${i + 1} of ${stack.count}`;

    // The same numbers in words, for eyes and for screen readers.
    function tell() {
      const ofEach = (number) => stack.attention.map((attention) => written(number(attention)) + (panes.length > 1 ? ` (${attention.title})` : "")).join(", ");
      const weight = stack.attention.every((attention) => attention.size === 1) ? "weight" : "largest weight";
      const shows = stack.has_lesion ? (stack.has_lesion[image] ? ", shows the lesion" : ", no lesion") : "";
      ofImage.textContent = `${nameOf(image)}: ${weight} ${ofEach((attention) => attention.largest[image])}${shows}`;
      ofPixel.textContent = "Point at the picture, or press shift and arrow keys, to read a pixel.";
      if (!isThere(stack, image)) ofPixel.textContent = "The image is on its way.";
      if (!point || !isThere(stack, image)) return;
      const pixel = point.row * stack.width + point.column;
      const grey = `${stack.samples === 3 ? "red, green, blue" : `${stack.channel} grey value`} ${greyAt(stack, image, pixel).join(", ")}`;
      const where = stack.lesion ? (inLesion(stack, image, pixel) ? ", in the lesion" : ", not in the lesion") : "";
      ofPixel.textContent = `row ${point.row + 1}, column ${point.column + 1}: ${grey}, weight ${ofEach((attention) => weightAt(attention, image, pixel))}${where}`;
    }

    function go(to) {
      image = within(to, stack.count);
      images.set(image);
      if (!isThere(stack, image)) ask();
      draw();
    }

    function read(to) {
      point = to && { row: within(to.row, stack.height), column: within(to.column, stack.width) };
      draw();
    }

    let turned = 0; // a touch pad reports one turn of the wheel in many small parts
    function turn(event) {
      event.preventDefault();
      turned += event.deltaY * (event.deltaMode ? 33 : 1);
      if (Math.abs(turned) < 50) return;
      go(image + Math.sign(turned));
      turned = 0;
    }

    // Where in a canvas the pointer is, from 0 to 1.
    function placeOf(event) {
      const box = event.currentTarget.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    }

    function handle({ picture, strip }) {
      const pick = (event) => event.buttons && go(Math.floor(placeOf(event)[0] * stack.count));
      strip.canvas.addEventListener("pointerdown", pick);
      strip.canvas.addEventListener("pointermove", pick);
      picture.canvas.addEventListener("wheel", turn, { passive: false });
      picture.canvas.addEventListener("pointerleave", () => read(null));
      picture.canvas.addEventListener("pointermove", (event) => {
        const [across, down] = placeOf(event);
        read({ row: Math.floor(down * stack.height), column: Math.floor(across * stack.width) });
      });
    }

    function press(event) {
      if (!stack || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
      const i = panes.findIndex((pane) => pane.root.contains(event.target));
      const jumps = { PageUp: image - 10, PageDown: image + 10, Home: 0, End: stack.count - 1 };
      const [down, across] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
      if (event.key === "c") go(stack.attention[Math.max(0, i)].critical);
      else if (i < 0) return; // a slider has its own arrow keys
      else if (event.key in jumps) go(jumps[event.key]);
      else if (!(down || across)) return;
      else if (!event.shiftKey) go(image + down + across);
      else read(point ? { row: point.row + down, column: point.column + across } : { row: stack.height >> 1, column: stack.width >> 1 });
      event.preventDefault();
    }

    controls.addEventListener("keydown", press);
    body.addEventListener("keydown", press);
    for (const name of LOOK) listen(model, `change:${name}`, draw, el);
    listen(model, "change:opened", open, el);
    listen(model, "change:images", takeRest, el);
    for (const name of ["case", "channel"]) listen(model, `change:${name}`, () => (body.ariaBusy = true), el);
    listen(model, "change:message", () => (body.ariaBusy = false), el);
    const sized = new ResizeObserver(layOut);
    sized.observe(body);
    el.milEnds.push(() => (sized.disconnect(), clearTimeout(asking)));
    onThemeChange(el, layOut);
    open();
    return ends(el);
  },
};
