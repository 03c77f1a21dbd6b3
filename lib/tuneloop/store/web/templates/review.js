(() => {
  const box = document.getElementById("keys");
  box.closest("[hidden]").hidden = false;
  try { box.checked = localStorage.getItem("review-keys") !== "off"; } catch { /* storage is off */ }
  box.addEventListener("change", () => {
    try { localStorage.setItem("review-keys", box.checked ? "on" : "off"); } catch { /* storage is off */ }
  });
  const targets = { a: "accept", r: "reject", s: "skip", n: "next", p: "previous", e: "reason" };
  let isSent = false;
  document.getElementById("verdict").addEventListener("submit", () => { isSent = true; });
  window.addEventListener("pageshow", () => { isSent = false; });
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("textarea, select, input:not([type=checkbox])");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    if (!box.checked || isSent || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    const element = document.getElementById(targets[event.key.toLowerCase()] ?? "");
    if (!element) return;
    event.preventDefault();
    if (element.id === "reason") element.focus(); else element.click();
  });
})();
