// The log of a job: only the lines that are in sight exist as elements, so a million are as fast as a hundred.
//
// It opens at the end and follows. Scrolling up reads older pages, "Beginning" starts over from the first line, and a
// search or a level is asked of the server. Lines are text nodes; terminal colours and control characters are taken out.
import { follow } from "./live.js";

const LINE_HEIGHT = 20, OVERSCAN = 20, PAGE_LINES = 1000, MOST_LINES = 200_000, LONGEST_SHOWN = 4000;
const MOST_HEIGHT = 15_000_000; // What browsers still place to the pixel; far beyond MOST_LINES.
const ESCAPES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-Z\\-_])/g;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;
const BIDI = /[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

export function plain(text) {
  const clean = text.replace(ESCAPES, "").replace(CONTROLS, "").replace(BIDI, "\ufffd");
  return clean.length > LONGEST_SHOWN ? `${clean.slice(0, LONGEST_SHOWN)} … ${clean.length - LONGEST_SHOWN} more characters` : clean;
}

export class LogView {
  constructor(box, path, { state, search, level, followButton, startButton, final }) {
    Object.assign(this, { box, path, state, search, level, followButton, startButton, final });
    this.lines = [];
    this.following = true;
    this.reading = false;
    this.whole = { before: true, after: true };
    this.epoch = 0;
    this.due = false;
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.dataset.testid = "log-space";
    box.addEventListener("scroll", () => this.onScroll(), { passive: true });
    new ResizeObserver(() => this.schedule()).observe(box);
    let typing;
    search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.open(), 250);
    });
    level.addEventListener("change", () => this.open());
    followButton.addEventListener("click", () => this.open());
    startButton.addEventListener("click", () => this.open({ fromStart: true }));
    this.open();
  }

  get filtered() {
    return this.search.value !== "" || this.level.value !== "";
  }

  async read(parameters) {
    const address = new URL(this.path, location.href);
    address.searchParams.set("limit", PAGE_LINES);
    for (const [name, value] of Object.entries({ search: this.search.value, level: this.level.value, ...parameters })) {
      if (value) address.searchParams.set(name, value);
    }
    const answer = await fetch(address, { headers: { accept: "application/json" } });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  }

  async open({ fromStart = false } = {}) {
    const epoch = ++this.epoch;
    this.stream?.stop();
    this.stream = null;
    this.whole = { before: true, after: true }; // Until the first page is here, scrolling reads nothing.
    this.setFollowing(!fromStart);
    this.say("reading");
    try {
      const page = await this.read({ order: fromStart ? "asc" : "desc" });
      if (epoch !== this.epoch) return;
      this.lines = fromStart ? page.data : page.data.reverse();
      this.whole = fromStart ? { before: true, after: !page.has_more } : { before: !page.has_more, after: true };
    } catch (error) {
      if (epoch === this.epoch) this.say(`not read: ${error.message}`);
      return;
    }
    this.box.replaceChildren(this.space);
    this.draw();
    this.box.scrollTop = fromStart ? 0 : this.box.scrollHeight;
    if (!fromStart || this.whole.after) this.tail(epoch);
    this.describe();
  }

  tail(epoch) {
    if (this.final && !this.stream) return;
    const address = new URL(this.path, location.href);
    if (this.level.value) address.searchParams.set("level", this.level.value);
    const last = this.lines.at(-1)?.id ?? null;
    const wanted = this.search.value.toLowerCase();
    this.stream = follow(address, {
      event: "log",
      after: last,
      onRow: (line) => {
        if (epoch !== this.epoch || (wanted && !line.text.toLowerCase().includes(wanted))) return;
        this.lines.push(line);
        if (this.lines.length > MOST_LINES) {
          this.lines.splice(0, PAGE_LINES);
          this.whole.before = false;
        }
        this.schedule();
      },
      onEnd: () => { this.final = true; this.describe(); },
      onState: (state) => { this.link = state; this.describe(); },
    });
  }

  async readOlder() {
    if (this.reading || this.whole.before || this.lines.length === 0) return;
    this.reading = true;
    const epoch = this.epoch;
    try {
      const page = await this.read({ order: "desc", after: this.lines[0].id });
      if (epoch !== this.epoch) return;
      const was = this.box.scrollTop;
      this.lines = page.data.reverse().concat(this.lines);
      this.whole.before = !page.has_more;
      this.draw();
      this.box.scrollTop = was + page.data.length * LINE_HEIGHT;
    } catch {
      // The next scroll tries again.
    } finally {
      this.reading = false;
    }
  }

  async readNewer() {
    if (this.reading || this.whole.after) return;
    this.reading = true;
    const epoch = this.epoch;
    try {
      const page = await this.read({ order: "asc", after: this.lines.at(-1)?.id });
      if (epoch !== this.epoch) return;
      this.lines = this.lines.concat(page.data);
      this.whole.after = !page.has_more;
      if (this.whole.after) this.tail(epoch);
      this.schedule();
    } catch {
      // The next scroll tries again.
    } finally {
      this.reading = false;
    }
  }

  onScroll() {
    const below = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
    if (this.whole.after) this.setFollowing(below < LINE_HEIGHT * 2);
    if (this.box.scrollTop < LINE_HEIGHT * 40) this.readOlder();
    if (below < LINE_HEIGHT * 40) this.readNewer();
    this.schedule();
  }

  setFollowing(following) {
    this.following = following;
    this.followButton.setAttribute("aria-pressed", String(following));
    this.followButton.textContent = following ? "Following" : "Follow";
  }

  schedule() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.draw();
      if (this.following) this.box.scrollTop = this.box.scrollHeight;
    });
  }

  draw() {
    this.space.style.height = `${Math.min(this.lines.length * LINE_HEIGHT, MOST_HEIGHT)}px`;
    if (this.lines.length === 0) {
      const none = document.createElement("p");
      none.className = "empty";
      none.textContent = this.filtered ? "No line matches." : this.final ? "The job wrote nothing." : "Nothing was written yet.";
      this.space.replaceChildren(none);
      return;
    }
    const first = Math.max(0, Math.floor(this.box.scrollTop / LINE_HEIGHT) - OVERSCAN);
    const last = Math.min(this.lines.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / LINE_HEIGHT) + OVERSCAN);
    const start = this.following ? Math.max(0, this.lines.length - (last - first)) : first;
    const end = this.following ? this.lines.length : last;
    this.space.replaceChildren(...this.lines.slice(start, end).map((line, index) => this.element(line, start + index)));
    this.describe();
  }

  element(line, index) {
    const row = document.createElement("div");
    row.className = `line ${["warn", "error"].includes(line.level) ? line.level : "info"}${line.stream === "tunepool" ? " tunepool" : ""}`;
    row.style.top = `${index * LINE_HEIGHT}px`;
    const at = document.createElement("span");
    at.className = "at";
    at.textContent = new Date(line.at * 1000).toLocaleTimeString("en-GB");
    at.title = `attempt ${line.attempt}, line ${line.seq}, ${new Date(line.at * 1000).toISOString()}`;
    const text = document.createElement("span");
    text.className = "text";
    this.fill(text, plain(line.text));
    row.append(at, text);
    return row;
  }

  fill(box, text) {
    const wanted = this.search.value.toLowerCase();
    const at = wanted ? text.toLowerCase().indexOf(wanted) : -1;
    if (at < 0) {
      box.textContent = text;
      return;
    }
    const mark = document.createElement("mark");
    mark.textContent = text.slice(at, at + wanted.length);
    box.append(text.slice(0, at), mark, text.slice(at + wanted.length));
  }

  describe() {
    const count = this.lines.length.toLocaleString("en");
    const more = this.whole.before && this.whole.after ? "" : " loaded, more as you scroll";
    const link = this.final ? "" : { live: ", live", away: ", reconnecting" }[this.link] ?? "";
    this.say(this.filtered ? `${count} lines match${more && ", more as you scroll"}${link}` : `${count} lines${more}${link}`);
  }

  say(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }
}
