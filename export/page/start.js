// Runs in every browser, so it is written for old ones: tells if the browser is too old, isolates the page so that it
// may use threads, and then loads the page's module. Nothing else is downloaded before that.
(function () {
  "use strict";
  // (module (func (result v128) i32.const 0, i8x16.splat, i8x16.popcnt)): valid where there is WebAssembly SIMD.
  var SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

  function hasModuleWorkers() {
    var asked = false;
    try {
      new Worker("blob:", { get type() { asked = true; return "module"; } }).terminate();
    } catch (error) { /* there is no such file */ }
    return asked;
  }

  function missing() {
    if (!window.WebAssembly || !WebAssembly.validate(new Uint8Array(SIMD))) return "WebAssembly SIMD";
    if (!window.Worker || !hasModuleWorkers()) return "module workers";
    if (!window.CSS || !CSS.supports("selector(&)")) return "nested style sheets";
    if (!window.DecompressionStream) return "decompression streams";
    return "";
  }

  function loadPage() {
    var script = document.createElement("script");
    script.type = "module";
    script.src = "page.js";
    document.body.appendChild(script);
  }

  // One more load only, which the address says: if the page is not isolated then, one thread has to do. (A mark in
  // sessionStorage may outlive its removal, as isolated pages have a process of their own.)
  function isolate() {
    var options = new URLSearchParams(location.search), again = options.has("isolating");
    options.delete("isolating");
    var address = location.pathname + (options.toString() && "?" + options);
    if (again) history.replaceState(null, "", address);
    var impossible = !window.isSecureContext || !navigator.serviceWorker || window !== window.top;
    if (window.crossOriginIsolated || impossible || again || options.get("threads") === "1") return Promise.resolve(false);
    options.set("isolating", "");
    // One worker for all games of a site, in its root folder.
    return navigator.serviceWorker.register(root + "isolate.js").then(activated).then(function () {
      location.replace(location.pathname + "?" + options);
      return true;
    });
  }

  // Resolves as soon as the service worker is active: it then serves the next load of this page.
  function activated(registration) {
    var worker = registration.installing || registration.waiting;
    return new Promise(function (resolve) {
      if (registration.active || !worker) return resolve();
      worker.addEventListener("statechange", function () { if (worker.state === "activated") resolve(); });
    });
  }

  var root = document.currentScript.getAttribute("data-root");
  var lacks = missing();
  if (lacks) {
    document.querySelector(".stage").setAttribute("data-phase", "lost");
    document.querySelector(".overlay-text").textContent = "This browser is too old: it has no " + lacks +
      ". Use a version of Chrome, Edge, Firefox or Safari of 2024 or later.";
    return;
  }
  Promise.resolve().then(isolate).catch(function () { return false; }).then(function (reloading) { if (!reloading) loadPage(); });
})();
