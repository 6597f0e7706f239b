// What every page has: times that stay right, confirmations, copying, ticks, and errors of requests that scripts made.
import { describeAge } from "./words.js";

const AGE_MILLISECONDS = 5000;
const TOAST_MILLISECONDS = 8000;

export function refreshTimes(root = document) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const text = describeAge((Date.now() - at) / 1000);
    if (time.textContent !== text) time.textContent = text;
    time.title = `${at.toLocaleString()} (${time.dateTime.replace("T", " ").replace("Z", " UTC")})`;
  }
}

export function toast(text) {
  const box = document.createElement("div");
  box.className = "toast";
  box.textContent = text;
  document.getElementById("toasts")?.append(box);
  setTimeout(() => box.remove(), TOAST_MILLISECONDS);
}

function showScriptParts(root) {
  for (const part of root.querySelectorAll("[data-copy], [data-needs-scripts]")) part.hidden = false;
}

function countTicks() {
  const form = document.querySelector("[data-bulk]");
  const label = form?.querySelector("[data-ticked]");
  if (!label) return;
  const ticked = form.querySelectorAll('input[name="job"]:checked').length;
  label.textContent = `${ticked} ticked`;
}

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (!copy) return;
  const code = copy.parentElement.querySelector("pre");
  const text = copy.lastChild;
  if (!navigator.clipboard) { // Only a page over TLS or of this machine may write there; then it is chosen, to be copied.
    getSelection().selectAllChildren(code);
    return;
  }
  await navigator.clipboard.writeText(code.textContent);
  text.textContent = "Copied";
  setTimeout(() => (text.textContent = "Copy"), 1500);
});

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.confirm ?? event.target.dataset.confirm;
  if (question && !window.confirm(question)) {
    event.preventDefault();
    event.stopImmediatePropagation();
  }
}, true);

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-tick-all]")) {
    for (const box of document.querySelectorAll('[data-bulk] input[name="job"]')) box.checked = event.target.checked;
  }
  countTicks();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, select, textarea")) return;
  const field = [...document.querySelectorAll('[data-hotkey="/"]')].find((one) => one.checkVisibility());
  if (field) {
    event.preventDefault();
    field.focus();
  }
});

// A page that nobody looks at asks for nothing, and a part that somebody is in the middle of is left alone, also by
// an answer that was asked for before.
const isBusy = (part) => part.contains(document.activeElement) || part.querySelector("input:checked") !== null;
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.target.matches("[data-live]") && (document.hidden || isBusy(event.detail.target))) event.preventDefault();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.requestConfig.elt.matches("[data-live]") && isBusy(event.detail.target)) event.detail.shouldSwap = false;
});
document.addEventListener("htmx:afterSwap", (event) => {
  showScriptParts(event.target);
  refreshTimes(event.target);
  countTicks();
});
document.addEventListener("htmx:responseError", (event) => {
  toast(event.detail.xhr.responseText.trim().slice(0, 500) || `The server answered ${event.detail.xhr.status}.`);
});
document.addEventListener("htmx:sendError", (event) => {
  if (!event.target.closest("[data-live]")) toast("The server does not answer.");
});

showScriptParts(document);
refreshTimes();
countTicks();
setInterval(refreshTimes, AGE_MILLISECONDS);
