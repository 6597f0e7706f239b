// A job's server-sent events, each row once. A browser has few connections to one server, so a hidden page gives its
// streams back and goes on behind the last row that it saw when it is looked at again.

export function follow(path, { event, after = null, onRow, onEnd = () => {}, onState = () => {} }) {
  let last = after, source = null, ended = false;

  function open() {
    if (source || ended || document.hidden) return;
    const address = new URL(path, location.href);
    address.searchParams.set("stream", "true");
    if (last) address.searchParams.set("after", last);
    source = new EventSource(address);
    source.addEventListener("open", () => onState("live"));
    source.addEventListener("error", () => {
      onState("away");
      if (source?.readyState === EventSource.CLOSED) close();
    });
    source.addEventListener(event, (message) => {
      last = message.lastEventId || last;
      onRow(JSON.parse(message.data));
    });
    source.addEventListener("done", () => {
      ended = true;
      close();
      onState("ended");
      onEnd();
    });
  }

  function close() {
    source?.close();
    source = null;
  }

  const look = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", look);
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", look);
  open();
  return {
    stop() {
      ended = true;
      close();
      document.removeEventListener("visibilitychange", look);
      window.removeEventListener("pagehide", close);
      window.removeEventListener("pageshow", look);
    },
  };
}
