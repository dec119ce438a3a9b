// The gallery: a strip that snaps, which the browser scrolls by itself. This adds the arrow keys, the buttons, dragging with
// a mouse, the mark on the thumbnail, and words for those who don't see what has changed.

import { Zoom } from "./zoom.js";

const DRAG_BEGINS = 6;
// The share of the strip's width that a drag must pass to turn it.
const DRAG_TURNS = 0.12;
// One press of an arrow key moves an enlarged picture so far.
const PAN = 0.15;

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Gallery {
  #root;
  #stage;
  #slides;
  #thumbs;
  #zooms;
  #controls;
  #current = 0;
  // The slide that a scroll of our own is on its way to.
  #heading = null;
  // Between the wish for another slide and the moment when the browser is ready to fade to it.
  #fading = false;
  #drag = null;
  #dragged = false;

  constructor(root) {
    this.#root = root;
    this.#stage = root.querySelector("[data-stage]");
    this.#slides = [...root.querySelectorAll("[data-slide]")];
    this.#thumbs = [...root.querySelectorAll("[data-thumb]")];
    this.#controls = root.querySelector("[data-controls]");
    if (this.#slides.length === 0) return;

    this.#zooms = this.#slides.map((slide) => {
      const picture = slide.querySelector(".picture");
      return picture && new Zoom(slide, picture, {
        onChange: (scale) => this.#zoomed(scale),
        mayClick: () => !this.#dragged,
      });
    });
    this.#thumbs.forEach((thumb, index) => thumb.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.go(index);
    }));
    root.querySelector("[data-previous]").addEventListener("click", () => this.go(this.#current - 1));
    root.querySelector("[data-next]").addEventListener("click", () => this.go(this.#current + 1));
    root.querySelector("[data-zoom]").addEventListener("click", () => this.#zooms[this.#current]?.toggle());
    document.addEventListener("keydown", (event) => this.#key(event));
    this.#stage.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#stage.addEventListener("scrollend", () => this.#settled());
    // Who takes hold of the strip goes where they like.
    for (const hold of ["touchstart", "wheel"]) this.#stage.addEventListener(hold, () => { this.#heading = null; }, { passive: true });
    this.#stage.addEventListener("pointerdown", (event) => this.#press(event));
    this.#stage.addEventListener("pointermove", (event) => this.#pull(event));
    for (const end of ["pointerup", "pointercancel"]) this.#stage.addEventListener(end, (event) => this.#let(event));
    // A window that changes its width leaves the strip between two slides.
    new ResizeObserver(() => this.#place(this.#current, "instant")).observe(this.#stage);

    this.#controls.hidden = this.#slides.length < 2 && !this.#zooms[0];
    const linked = this.#slides.findIndex((slide) => `#${slide.id}` === location.hash);
    this.#show(Math.max(0, linked), { aloud: false });
    this.#place(this.#current, "instant");
  }

  get length() { return this.#slides.length; }

  // Shows the slide with this index; before the first and behind the last there is nothing.
  go(index) {
    const wanted = Math.min(this.length - 1, Math.max(0, index));
    const far = Math.abs(wanted - this.#current) > 1;
    if (wanted === this.#current && this.#heading === null) return;
    this.#show(wanted, { aloud: true });
    if (far && !calm.matches && document.startViewTransition) {
      // Past several others: rather one picture becomes the other. One that is overtaken by the next rejects, which is no fault.
      this.#fading = true;
      const transition = document.startViewTransition(() => this.#place(wanted, "instant"));
      for (const promise of [transition.ready, transition.finished]) promise.catch(() => {});
    } else {
      this.#place(wanted, calm.matches || far ? "instant" : "smooth");
    }
  }

  get #mirrored() { return getComputedStyle(this.#stage).direction === "rtl"; }

  // Scrolls the strip itself and never the page.
  #place(index, behavior) {
    this.#fading = false;
    const left = this.#slides[index].offsetLeft;
    if (Math.abs(this.#stage.scrollLeft - left) < 1) {
      this.#heading = null;
      return;
    }
    this.#heading = "onscrollend" in window ? index : null;
    this.#stage.scrollTo({ left, behavior });
  }

  // Somebody else scrolls: a finger, a touchpad, a link without script.
  #scrolled() {
    if (this.#heading !== null || this.#fading || this.#drag) return;
    const index = Math.round(Math.abs(this.#stage.scrollLeft) / this.#stage.clientWidth);
    if (index !== this.#current && index < this.length) this.#show(index, { aloud: true });
  }

  #settled() {
    // A page that is still being laid out may snap back to where a scroll of ours began.
    const heading = this.#heading;
    if (heading !== null && Math.abs(this.#stage.scrollLeft - this.#slides[heading].offsetLeft) > 2) {
      this.#place(heading, "instant");
      return;
    }
    this.#heading = null;
    this.#scrolled();
  }

  #show(index, { aloud }) {
    this.#zooms[this.#current]?.reset();
    for (const video of this.#slides[this.#current].querySelectorAll("video")) if (index !== this.#current) video.pause();
    this.#current = index;
    const { label } = this.#slides[index].dataset;
    const film = !this.#zooms[index];
    this.#thumbs.forEach((thumb, at) => {
      if (at === index) thumb.setAttribute("aria-current", "true");
      else thumb.removeAttribute("aria-current");
    });
    this.#root.querySelector("[data-count]").textContent = `${index + 1} / ${this.length}`;
    // Not `disabled`, which would take the focus from who pressed it last.
    this.#root.querySelector("[data-previous]").setAttribute("aria-disabled", String(index === 0));
    this.#root.querySelector("[data-next]").setAttribute("aria-disabled", String(index === this.length - 1));
    this.#root.querySelector("[data-zoom]").hidden = film;
    this.#controls.classList.toggle("on-film", film);
    if (aloud) {
      this.#root.querySelector("[data-status]").textContent =
        `${film ? "Video" : "Picture"} ${index + 1} of ${this.length}: ${label}`;
      history.replaceState(history.state, "", `#${this.#slides[index].id}`);
    }
  }

  #zoomed(scale) {
    const near = scale > 1;
    this.#stage.classList.toggle("zoomed", near);
    const button = this.#root.querySelector("[data-zoom]");
    if (button.getAttribute("aria-pressed") === String(near)) return;
    button.setAttribute("aria-pressed", String(near));
    this.#root.querySelector("[data-status]").textContent = near ? "Enlarged: arrow keys move the picture, Escape shows all of it" : "Whole picture";
  }

  #key(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const { target } = event;
    if (target.closest("input, textarea, select, video, [contenteditable]")) return;
    // Keys that scroll the page are ours only where the reader is in the gallery, or nowhere in particular.
    const inside = this.#root.contains(target);
    if (!inside && target !== document.body) return;
    const zoom = this.#zooms[this.#current];
    const ahead = this.#mirrored ? -1 : 1;
    const acts = {
      ArrowRight: () => this.go(this.#current + ahead),
      ArrowLeft: () => this.go(this.#current - ahead),
      "+": () => zoom?.in(),
      "=": () => zoom?.in(),
      "-": () => zoom?.out(),
      0: () => zoom?.reset(),
    };
    if (inside) Object.assign(acts, { Home: () => this.go(0), End: () => this.go(this.length - 1) });
    if (zoom?.near) {
      Object.assign(acts, {
        Escape: () => zoom.reset(),
        ArrowRight: () => zoom.pan(PAN, 0),
        ArrowLeft: () => zoom.pan(-PAN, 0),
        ArrowDown: () => zoom.pan(0, PAN),
        ArrowUp: () => zoom.pan(0, -PAN),
      });
    }
    const act = Object.hasOwn(acts, event.key) && acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  // Touch scrolls the strip by itself; a mouse does not.
  #press(event) {
    this.#dragged = false;
    if (event.pointerType !== "mouse" || event.button !== 0 || this.#zooms[this.#current]?.near) return;
    if (event.target.closest("video")) return;
    this.#drag = { from: event.clientX, scroll: this.#stage.scrollLeft, index: this.#current };
  }

  #pull(event) {
    if (!this.#drag) return;
    const by = event.clientX - this.#drag.from;
    if (!this.#dragged && Math.abs(by) < DRAG_BEGINS) return;
    if (!this.#dragged) {
      this.#dragged = true;
      this.#stage.classList.add("dragging");
      this.#stage.setPointerCapture(event.pointerId);
    }
    this.#stage.scrollLeft = this.#drag.scroll - by;
  }

  #let(event) {
    const drag = this.#drag;
    if (!drag) return;
    this.#drag = null;
    if (!this.#dragged) return;
    this.#stage.classList.remove("dragging");
    const by = event.clientX - drag.from;
    const turns = Math.abs(by) > DRAG_TURNS * this.#stage.clientWidth;
    const ahead = (by < 0) === this.#mirrored ? -1 : 1;
    this.#heading = drag.index;
    this.go(turns ? drag.index + ahead : drag.index);
  }
}
