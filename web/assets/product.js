// The product page. Everything is there and works before this runs; it only adds.

import { Gallery } from "./gallery.js";

for (const root of document.querySelectorAll("[data-gallery]")) new Gallery(root);

for (const keys of document.querySelectorAll("[data-keys]")) keys.hidden = false;

// A page that embeds this one can't measure it, and wants a frame of the right height.
if (document.body.classList.contains("embedded") && window.parent !== window) {
  let told = 0;
  new ResizeObserver(() => {
    const height = Math.ceil(document.body.getBoundingClientRect().height);
    if (height === told) return;
    told = height;
    // A height is no secret, and who embeds us is not known here.
    window.parent.postMessage({ type: "canvas-cluster:size", height }, "*");
  }).observe(document.body);
}
