// Shows a shoe's gallery in another page, where this element stands:
//
//   <script src="https://HOST/embed.js" data-shoe-id="7" async></script>
//
// data-title names the frame for screen readers. The page's origin must be one that --frame-ancestors lets in.
(() => {
  const script = document.currentScript;
  // A module, or one that was run from elsewhere, has no element of its own and so no place in the page.
  if (!(script instanceof HTMLScriptElement)) return;
  const id = script.dataset.shoeId ?? "";
  if (!/^-?[0-9]{1,10}$/.test(id)) {
    console.error("embed.js: data-shoe-id must be the number of a shoe");
    return;
  }
  const page = new URL(`shoes/${id}?embed=1`, script.src);
  const frame = document.createElement("iframe");
  frame.src = page.href;
  frame.title = script.dataset.title ?? `Pictures and videos of shoe ${id}`;
  frame.allow = "fullscreen";
  frame.referrerPolicy = "strict-origin-when-cross-origin";
  Object.assign(frame.style, { display: "block", width: "100%", height: "480px", border: "0" });

  // Only the frame's own page may say how high it is, and only within reason.
  window.addEventListener("message", (event) => {
    if (event.source !== frame.contentWindow || event.origin !== page.origin) return;
    const { type, height } = Object(event.data);
    if (type !== "canvas-cluster:size" || !Number.isFinite(height)) return;
    frame.style.height = `${Math.min(Math.max(Math.ceil(height), 100), 10000)}px`;
  });
  script.after(frame);
})();
