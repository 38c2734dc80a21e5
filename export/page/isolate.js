// A service worker that adds the headers of a cross-origin isolated page, where the host does not send them. Only such
// a page may use threads.
addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));
addEventListener("fetch", (event) => {
  const { request } = event;
  if (new URL(request.url).origin !== location.origin) return;
  event.respondWith(fetch(request).then((response) => {
    const headers = new Headers(response.headers);
    headers.set("Cross-Origin-Opener-Policy", "same-origin");
    headers.set("Cross-Origin-Embedder-Policy", "require-corp");
    const { status, statusText } = response;
    return new Response([204, 304].includes(status) ? null : response.body, { status, statusText, headers });
  }));
});
