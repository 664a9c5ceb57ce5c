// The live page. Nothing of a request is ever rendered as markup: all text goes through textContent.
"use strict";

const KEPT = 500; // requests that this page remembers
const CARDS = 60; // of which so many are shown
const SECONDS = 60;

const byId = (id) => document.getElementById(id);
const sights = new Map(); // by number
const cards = new Map(); // number to [sight, element], of those that are shown
let latest = null; // the last event that is shown
let about = {};
let skipped = 0; // requests that this browser was too slow for
let paused = false;
let waiting = null; // what has come since the pause began, as one event
let drawing = 0; // the frame that is asked for, until it is drawn: none in a tab that nobody looks at
let opened = null; // number of the request that is shown large

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const count = (value) => value.toLocaleString("en");
const percent = (share) => `${Math.round(100 * share)} %`;

function bytes(value) {
  for (const unit of ["B", "KB", "MB", "GB"]) {
    if (value < 1000 || unit === "GB") return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
}

function clock(sight) {
  return new Date(sight.time_ns / 1e6).toLocaleTimeString("en-GB");
}

function write(id, text) { // what has not changed is not drawn again
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function state(name, text) {
  if (byId("state").className !== `state ${name}`) byId("state").className = `state ${name}`;
  write("state", text);
}

// Figures and charts

function chart(id, values, text, top) {
  const width = 120, height = 30, high = top || Math.max(...values, 1e-9);
  const points = values.map((value, at) => [(at * width) / (SECONDS - 1), height - 1 - (value / high) * (height - 3)]);
  const line = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  byId(id).querySelector(".area").setAttribute("points", `0,${height} ${line} ${width},${height}`);
  byId(id).querySelector(".stroke").setAttribute("points", line);
  write(`${id}-now`, text);
}

function showFigures() {
  const { counts, seconds } = latest;
  write("requests", count(counts.requests));
  write("drawn", count(counts.drawn));
  write("seen", count(counts.seen));
  write("bytes", bytes(counts.bytes));
  write("passed", count(counts.undrawn + skipped));
  byId("passed").title = `${count(counts.undrawn)} never looked into, ${count(skipped)} not shown by this browser, ` +
    `${count(counts.lost)} missing in the capture`;
  // Up to the last whole second; of an old capture, up to its end.
  const now = Math.floor(Date.now() / 1000), newest = seconds.at(-1)?.[0] ?? now;
  const end = Math.abs(now - newest) < SECONDS ? now - 1 : newest;
  const rows = Array.from({ length: SECONDS }, () => [0, 0, 0]);
  for (const [second, ...row] of seconds) {
    const place = SECONDS - 1 + second - end;
    if (place >= 0 && place < SECONDS) rows[place] = row;
  }
  const last = rows[SECONDS - 1], sure = rows.map((row) => row[2]);
  chart("chart-requests", rows.map((row) => row[0]), count(last[0]));
  chart("chart-bytes", rows.map((row) => row[1]), bytes(last[1]));
  const surest = sure.filter((share) => share > 0).at(-1);
  chart("chart-sure", sure, surest === undefined ? "–" : percent(surest), 1);
}

// Cards

function shots(sight) {
  const made = [];
  const add = (kind, source, caption, text) => {
    const shot = element("span", `shot ${kind}`);
    const picture = element(source ? "img" : "span", source ? "" : "none");
    if (source) {
      picture.src = source;
      picture.alt = text;
    }
    shot.append(picture, element("span", "caption", caption));
    made.push(shot);
  };
  add("heat", sight.heat, "on the wire", "heat map of the numbers that were sent");
  if (about.rebuilder) add("rebuilt", sight.rebuilt, "rebuilt", "the picture rebuilt from these numbers");
  if (about.truth) add("truth", sight.truth, "truth", "the picture that the device had");
  return made;
}

function card(sight) {
  const item = element("li"), button = element("button", sight.seen ? "card again" : "card");
  const strip = element("span", "strip"), name = element("span", "name"), meta = element("span", "meta");
  button.type = "button";
  button.addEventListener("click", () => open(sight.number));
  strip.append(...shots(sight));
  name.append(element("span", "text", sight.label ?? (sight.error ? "refused" : "no answer yet")));
  if (sight.confidence !== null) name.append(element("span", "sure", percent(sight.confidence)));
  const bar = element("progress", "bar");
  bar.max = 1;
  bar.value = sight.confidence ?? 0;
  bar.setAttribute("aria-label", "confidence in the label");
  const took = sight.ms === null ? "" : ` · ${sight.ms.toFixed(1)} ms`;
  meta.append(`#${sight.number} · ${clock(sight)} · ${bytes(sight.bytes)}${took} · `, element("span", "id", sight.id));
  button.append(strip, name, bar, meta);
  if (sight.own) button.append(element("span", "badge quiet", "the attacker's own query"));
  if (sight.error) button.append(element("span", "badge quiet", sight.error));
  if (sight.doubt) button.append(element("span", "badge quiet", sight.doubt));
  if (sight.seen) {
    const badge = element("span", "badge"), earlier = element("img");
    earlier.src = sight.seen.picture;
    earlier.alt = "the earlier picture";
    badge.append(earlier, `Seen before, as #${sight.seen.number}`);
    button.append(badge);
  }
  item.append(button);
  return item;
}

function shown() {
  const wanted = byId("filter").value.trim().toLowerCase(), onlySeen = byId("only-seen").checked;
  const fits = (sight) => (!onlySeen || sight.seen) &&
    (!wanted || `${sight.label ?? ""} ${sight.id}`.toLowerCase().includes(wanted));
  return [...sights.values()].filter(fits).sort((a, b) => b.number - a.number).slice(0, CARDS);
}

function showCards() {
  const list = byId("cards"), wanted = shown(), numbers = new Set(wanted.map((sight) => sight.number));
  for (const [number, [, made]] of cards) {
    if (!numbers.has(number)) {
      made.remove();
      cards.delete(number);
    }
  }
  let before = null;
  for (const sight of wanted.reverse()) { // from the oldest, each in front of the one before
    const [drawn, old] = cards.get(sight.number) ?? [];
    let made = old;
    if (drawn !== sight) {
      made = card(sight);
      if (old) old.replaceWith(made);
      cards.set(sight.number, [sight, made]);
    }
    if (made.parentNode !== list || made.nextSibling !== before) list.insertBefore(made, before);
    before = made;
  }
  byId("empty").hidden = wanted.length > 0;
  if (sights.size > 0) byId("empty").textContent = "No request fits the filter.";
}

// One request, large

function open(number) {
  const sight = sights.get(number);
  if (!sight) return;
  opened = number;
  byId("large-title").textContent = `#${number}: ${sight.label ?? "no label"}`;
  byId("large-pictures").replaceChildren(...shots(sight));
  if (sight.seen) {
    const shot = element("span", "shot"), picture = element("img");
    picture.src = sight.seen.picture;
    picture.alt = "the earlier picture";
    shot.append(picture, element("span", "caption", `seen before, as #${sight.seen.number}`));
    byId("large-pictures").append(shot);
  }
  const facts = {
    "request id": sight.id || "(none)",
    "label guessed": sight.label === null ? "none" : `${sight.label}, ${percent(sight.confidence)} sure`,
    "seen before": sight.seen ? `yes, as #${sight.seen.number}` : "no",
    "tensor on the wire": sight.shape.join(" × "),
    "size": `${count(sight.bytes)} bytes`,
    "passed at": clock(sight),
    "answered after": sight.ms === null ? "no answer yet" : `${sight.ms.toFixed(2)} ms`,
    "sent by": sight.own ? "the attacker, as a query" : "a victim",
  };
  if (sight.error) facts["what is wrong"] = sight.error;
  if (sight.doubt) facts["about the picture"] = sight.doubt;
  byId("large-facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const row = element("tr"), head = element("th", "", name);
    head.scope = "row";
    row.append(head, element("td", "", value));
    return row;
  }));
  if (!byId("large").open) byId("large").showModal();
}

function step(by) {
  const numbers = shown().map((sight) => sight.number); // newest first
  const next = numbers[numbers.indexOf(opened) + by];
  if (next !== undefined) open(next);
}

// Save what is shown

function save(blob, name) {
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function saveJson() {
  const document_ = { about, counts: latest?.counts ?? {}, skipped, requests: shown() };
  save(new Blob([JSON.stringify(document_, null, 1)], { type: "application/json" }), "splitleak-watch.json");
}

function savePng() {
  const items = shown(), side = 96, gap = 8, head = 58, foot = 34;
  const pictures = items.map((sight) => [...cards.get(sight.number)[1].querySelectorAll(".strip img")]);
  const across = Math.max(1, ...pictures.map((row) => row.length)) * (side + 4) + gap;
  const columns = Math.max(1, Math.min(items.length, Math.floor(1400 / across)));
  const canvas = element("canvas"), style = getComputedStyle(document.body);
  canvas.width = columns * across + gap;
  canvas.height = head + Math.ceil(items.length / columns) * (side + foot) + gap;
  const pen = canvas.getContext("2d");
  pen.fillStyle = style.backgroundColor;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = style.color;
  pen.imageSmoothingEnabled = false;
  pen.font = "600 16px system-ui, sans-serif";
  pen.fillText(`What the eavesdropper sees: ${about.capture ?? ""}`, gap, 25, canvas.width - 2 * gap);
  pen.font = "12px system-ui, sans-serif";
  const kinds = ["on the wire", ...(about.rebuilder ? [`rebuilt (${about.rebuilder})`] : []), ...(about.truth ? ["truth"] : [])];
  pen.fillText(kinds.join("  ·  "), gap, 44, canvas.width - 2 * gap);
  items.forEach((sight, at) => {
    const x = gap + (at % columns) * across, y = head + Math.floor(at / columns) * (side + foot);
    pictures[at].forEach((picture, place) => pen.drawImage(picture, x + place * (side + 4), y, side, side));
    const sure = sight.confidence === null ? "" : ` ${percent(sight.confidence)}`;
    pen.fillText(`#${sight.number} ${sight.label ?? ""}${sure}${sight.seen ? ` = #${sight.seen.number}` : ""}`, x, y + side + 16, across - gap);
  });
  canvas.toBlob((blob) => save(blob, "splitleak-watch.png"), "image/png");
}

// Events

function show() {
  drawing = 0;
  write("how", `Reading ${about.capture}. ` + (about.rebuilder
    ? `Pictures are rebuilt by: ${about.rebuilder}. The label is what the cloud answered, read off the same wire.`
    : "No attack was given, so there are heat maps and labels only (--attack, or --public with --encoder or --pairs).")
    + ` Seen before: its numbers are ${about.again}.`);
  showFigures();
  showCards();
}

function take(received) {
  about = received.about;
  skipped += received.skipped;
  latest = received;
  for (const sight of received.sights) sights.set(sight.number, sight);
  if (sights.size > KEPT) {
    const oldest = [...sights.keys()].sort((a, b) => a - b).slice(0, sights.size - KEPT);
    for (const number of oldest) sights.delete(number);
  }
  drawing ||= requestAnimationFrame(show);
}

function onEvent(event) {
  const received = JSON.parse(event.data);
  if (!paused) {
    state("live", "live");
    take(received);
    return;
  }
  const before = waiting ?? { skipped: 0, sights: [] };
  const kept = [...before.sights, ...received.sights].slice(-KEPT);
  waiting = { ...received, skipped: before.skipped + received.skipped, sights: kept };
  const fresh = new Set(kept.map((sight) => sight.number).filter((number) => !sights.has(number))).size;
  state("paused", fresh ? `paused, ${count(fresh)} new` : "paused");
}

function pause() {
  paused = !paused;
  if (drawing) {
    cancelAnimationFrame(drawing);
    show();
  }
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Go on" : "Pause";
  state(paused ? "paused" : "live", paused ? "paused" : "live");
  if (!paused && waiting) take(waiting);
  waiting = null;
}

const source = new EventSource("events");
source.onmessage = onEvent;
source.onerror = () => state("lost", "disconnected");
byId("pause").addEventListener("click", pause);
byId("filter").addEventListener("input", showCards);
byId("only-seen").addEventListener("change", showCards);
byId("save-json").addEventListener("click", saveJson);
byId("save-png").addEventListener("click", savePng);
byId("close").addEventListener("click", () => byId("large").close());
byId("older").addEventListener("click", () => step(1));
byId("newer").addEventListener("click", () => step(-1));
byId("large").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(1);
  if (event.key === "ArrowRight") step(-1);
});
