// Updates the page of an unfinished run: by server-sent events, or by polling if none arrive.
(() => {
  "use strict";
  const part = document.getElementById("live");
  const said = document.getElementById("live-state");
  const url = part.dataset.url;
  let version = part.dataset.version;
  let isPolling = false;

  const show = (html, newer) => {
    if (newer === version) return;
    version = newer;
    const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    part.innerHTML = html; // Our own template; the server has escaped all texts of the run.
    if (focused !== null) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  };
  const say = text => { if (said.textContent !== text) said.textContent = text; };

  const poll = async () => {
    try {
      const reply = await fetch(`${url}/live`, { cache: "no-store" });
      if (reply.ok) {
        show(await reply.text(), reply.headers.get("X-Run-Version"));
        if (reply.headers.get("X-Run") === "finished") return location.reload();
        say("Live: this page asks for news every 5 seconds.");
      } else say(`The store does not answer (${reply.status}); asking again.`);
    } catch { say("The store does not answer; asking again."); }
    setTimeout(poll, 5000);
  };
  const startPolling = () => {
    if (isPolling) return;
    isPolling = true;
    events?.close();
    poll();
  };

  let events = null;
  if (!window.EventSource) return startPolling();
  events = new EventSource(`${url}/events?seen=${encodeURIComponent(version)}`);
  // Some proxies hold a stream back until it ends.
  const patience = setTimeout(startPolling, 6000);
  events.addEventListener("hello", () => { clearTimeout(patience); say("Live: news appear by themselves."); });
  events.addEventListener("update", event => show(event.data, event.lastEventId));
  events.addEventListener("finished", () => { events.close(); location.reload(); });
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) { clearTimeout(patience); startPolling(); }
    else say("The connection is lost; connecting again.");
  });
  addEventListener("pagehide", () => events.close());
})();
