// Coming closer to a picture: pinch, double tap, click, Ctrl and wheel, and dragging what is enlarged.
//
// A picture is moved by its `transform` alone. Its frame clips it, so that nothing else on the page moves.

const CLOSEST = 5;
const ONE_STEP = 1.5;
const BY_CLICK = 2.5;
// A finger or a hand on a mouse is never quite still.
const STILL = 8;
const DOUBLE_TAP_MS = 320;

const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

export class Zoom {
  #frame;
  #picture;
  #onChange;
  #mayClick;
  #scale = 1;
  #x = 0;
  #y = 0;
  // Fingers and buttons that are down, by their pointer's id.
  #held = new Map();
  #pinch = null;
  #moved = false;
  #lastTap = null;

  // `onChange` hears each new scale; `mayClick` says whether a click was one, and not the end of a swipe.
  constructor(frame, picture, { onChange, mayClick }) {
    this.#frame = frame;
    this.#picture = picture;
    this.#onChange = onChange;
    this.#mayClick = mayClick;
    frame.classList.add("zoomable");
    frame.addEventListener("pointerdown", (event) => this.#press(event));
    frame.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, (event) => this.#release(event));
    frame.addEventListener("click", (event) => this.#click(event));
    frame.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    // Two fingers are ours and no scrolling, which only this event can say in time.
    frame.addEventListener("touchstart", (event) => {
      if (event.touches.length > 1 || this.near) event.preventDefault();
    }, { passive: false });
  }

  get scale() { return this.#scale; }

  get near() { return this.#scale > 1; }

  in() { this.#about(this.#scale * ONE_STEP); }

  out() { this.#about(this.#scale / ONE_STEP); }

  toggle() { this.#about(this.near ? 1 : BY_CLICK); }

  reset() { this.#about(1); }

  // Moves what is enlarged, by fractions of the frame.
  pan(across, down) {
    this.#x -= across * this.#frame.clientWidth;
    this.#y -= down * this.#frame.clientHeight;
    this.#apply();
  }

  // Takes the scale on, and keeps the point of the picture under (x, y), from the frame's centre, where it is.
  #about(scale, x = 0, y = 0) {
    const wanted = clamp(scale, 1, CLOSEST);
    const ratio = wanted / this.#scale;
    this.#x = x - (x - this.#x) * ratio;
    this.#y = y - (y - this.#y) * ratio;
    this.#scale = wanted;
    this.#apply();
  }

  #apply() {
    if (this.#scale < 1.01) this.#scale = 1;
    const across = (this.#scale - 1) * this.#frame.clientWidth / 2;
    const down = (this.#scale - 1) * this.#frame.clientHeight / 2;
    this.#x = clamp(this.#x, -across, across);
    this.#y = clamp(this.#y, -down, down);
    this.#picture.style.transform = this.near ? `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})` : "";
    this.#frame.classList.toggle("near", this.near);
    this.#onChange(this.#scale);
  }

  #fromCentre(event) {
    const box = this.#frame.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  }

  // Where the two fingers are: the middle between them, and how far apart they are.
  #fingers() {
    const [[ax, ay], [bx, by]] = this.#held.values();
    return { x: (ax + bx) / 2, y: (ay + by) / 2, apart: Math.max(1, Math.hypot(ax - bx, ay - by)) };
  }

  #press(event) {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    // The first finger begins anew, also where the end of what was before went to somebody else.
    if (event.isPrimary) {
      this.#held.clear();
      this.#pinch = null;
      this.#moved = false;
    }
    this.#held.set(event.pointerId, this.#fromCentre(event));
    if (this.#held.size === 2) {
      this.#pinch = this.#fingers();
      this.#moved = true;
    }
    if (this.near || this.#pinch) {
      this.#frame.setPointerCapture(event.pointerId);
      this.#frame.classList.add("held");
    }
  }

  #move(event) {
    const before = this.#held.get(event.pointerId);
    if (!before || event.buttons === 0) return;
    const [x, y] = this.#fromCentre(event);
    if (!this.#moved && Math.hypot(x - before[0], y - before[1]) < STILL) return;
    this.#moved = true;
    this.#held.set(event.pointerId, [x, y]);
    if (this.#pinch) {
      const now = this.#fingers();
      this.#x += now.x - this.#pinch.x;
      this.#y += now.y - this.#pinch.y;
      this.#about(this.#scale * now.apart / this.#pinch.apart, now.x, now.y);
      this.#pinch = now;
    } else if (this.near) {
      this.#x += x - before[0];
      this.#y += y - before[1];
      this.#apply();
    }
  }

  #release(event) {
    if (!this.#held.delete(event.pointerId)) return;
    if (this.#held.size < 2) this.#pinch = null;
    if (this.#held.size === 0) this.#frame.classList.remove("held");
    if (event.type === "pointerup" && event.pointerType === "touch" && !this.#moved) this.#tap(event);
  }

  #tap(event) {
    const [x, y] = this.#fromCentre(event);
    const last = this.#lastTap;
    this.#lastTap = { x, y, at: event.timeStamp };
    if (last && event.timeStamp - last.at < DOUBLE_TAP_MS && Math.hypot(x - last.x, y - last.y) < 4 * STILL) {
      this.#lastTap = null;
      this.#about(this.near ? 1 : BY_CLICK, x, y);
    }
  }

  #click(event) {
    // A touch's click is one half of a double tap.
    if (event.pointerType === "touch" || this.#moved || !this.#mayClick()) return;
    this.#about(this.near ? 1 : BY_CLICK, ...this.#fromCentre(event));
  }

  #wheel(event) {
    // A wheel alone scrolls the page; a touchpad's pinch arrives as a wheel with Ctrl.
    if (!event.ctrlKey && !this.near) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.#about(this.#scale * Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), ...this.#fromCentre(event));
  }
}
