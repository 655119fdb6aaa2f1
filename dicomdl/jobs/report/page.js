"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { count, fields, columns, sheets, strips, colours } = data;
  // A column is a list of values, or {v: values, c: the number of the value of each stack}.
  const value = (name, i) => {
    const column = columns[name];
    if (!column) return null;
    return column.v ? column.v[column.c[i]] : column[i];
  };
  const place = new Map(columns.number.map((number, i) => [number, i]));
  const words = Array.from({ length: count }, (_, i) =>
    data.searched.map((name) => value(name, i)).concat(`stack ${columns.number[i]}`)
      .join(" ").toLowerCase());
  const wordy = (text) => String(text).replaceAll("_", " ");
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined && text !== null) made.textContent = text;
    return made;
  };

  // --- state, which is the part of the address behind # ---

  const state = { q: "", sort: "number", view: "cards", desc: "", needs: "", firsts: "", labels: "1" };
  for (const facet of data.facets) state[facet.name] = "";
  const initial = { ...state };
  let order = [], shown = [], drawn = 0, opened = -1;

  const hashOf = (i) => {
    const changed = Object.entries(state).filter(([name, held]) => held !== initial[name]);
    if (i >= 0) changed.push(["stack", columns.number[i]]);
    return changed.length ? `#${new URLSearchParams(changed)}` : "#stacks";
  };
  let waiting = 0;
  const write = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      // A page within another one may not change its address.
      try { history.replaceState(null, "", hashOf(opened)); } catch { /* as it was */ }
    }, 200);
  };
  const read = () => {
    const given = location.hash.slice(1);
    if (!given.includes("=")) return false;
    const found = new URLSearchParams(given);
    for (const name of Object.keys(state)) state[name] = found.get(name) ?? initial[name];
    if (!fields.some((field) => field.name === state.sort)) state.sort = "number";
    opened = place.get(Number(found.get("stack") ?? -1)) ?? -1;
    return true;
  };

  // --- what is shown ---

  const sortOrder = () => {
    const column = columns[state.sort];
    const numbers = Array.from({ length: count }, (_, i) => i);
    let rank;
    if (column.v) {
      const sorted = column.v.map((text, k) => [text, k]);
      sorted.sort(([a], [b]) => String(a ?? "").localeCompare(String(b ?? ""), "en", { numeric: true }));
      const ranks = new Array(sorted.length);
      sorted.forEach(([, k], at) => { ranks[k] = at; });
      rank = (i) => ranks[column.c[i]];
    } else rank = (i) => column[i];
    const sign = state.desc ? -1 : 1;
    order = numbers.sort((a, b) => {
      const left = rank(a), right = rank(b);
      // Unknown values come last, whatever the direction.
      if (left === null || right === null) return (left === null) - (right === null) || a - b;
      return sign * (left - right) || a - b;
    });
  };
  const filter = () => {
    const wanted = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = data.facets.filter((facet) => state[facet.name])
      .map((facet) => [columns[facet.name].c, columns[facet.name].v.findIndex((v) => String(v) === state[facet.name])]);
    shown = order.filter((i) =>
      chosen.every(([codes, code]) => codes[i] === code)
      && (!state.needs || columns.needs[i])
      && (!state.firsts || columns.first[i])
      && wanted.every((word) => words[i].includes(word)));
    drawn = 0;
    (state.view === "table" ? $("cards") : tbody).replaceChildren();
    $("count").textContent = shown.length === count
      ? `${count.toLocaleString("en")} stacks`
      : `${shown.length.toLocaleString("en")} of ${count.toLocaleString("en")} stacks`;
    more(24);
  };
  // Cards are made once; a keystroke moves those that are there.
  const made = { cards: new Map(), table: new Map() };
  const tbody = $("table").querySelector("tbody");
  const more = (number) => {
    const [make, target] = state.view === "table" ? [row, tbody] : [card, $("cards")];
    const held = made[state.view];
    const part = shown.slice(drawn, drawn + number).map((i) => {
      if (!held.has(i)) held.set(i, make(i));
      return held.get(i);
    });
    if (drawn) target.append(...part);
    else if (part.length !== target.children.length || part.some((node, k) => node !== target.children[k])) target.replaceChildren(...part);
    drawn += part.length;
  };
  const refresh = () => {
    for (const facet of data.facets) $(`facet-${facet.name}`).value = state[facet.name];
    if ($("q").value !== state.q) $("q").value = state.q;
    $("needs").checked = Boolean(state.needs);
    $("firsts").checked = Boolean(state.firsts);
    $("sort").value = state.sort;
    $("order").setAttribute("aria-pressed", String(Boolean(state.desc)));
    $("mode").setAttribute("aria-pressed", String(state.view === "table"));
    $("overlay").setAttribute("aria-pressed", String(Boolean(state.labels)));
    document.body.classList.toggle("no-labels", !state.labels);
    $("cards").hidden = state.view === "table";
    $("table").hidden = state.view !== "table";
    for (const th of $("table").querySelectorAll("th")) {
      const direction = state.desc ? "descending" : "ascending";
      th.setAttribute("aria-sort", th.dataset.name === state.sort ? direction : "none");
    }
    sortOrder();
    filter();
  };
  const change = (name, held) => { state[name] = held; refresh(); write(); };

  // --- pictures ---

  // Pictures stand behind this script, so that the page shows before they are read.
  const complete = new Promise((done) => {
    if (document.readyState === "loading") addEventListener("DOMContentLoaded", done);
    else done();
  });
  const addresses = new Map();
  const address = (id) => {
    if (!addresses.has(id)) {
      const text = $(id)?.textContent;
      const bytes = text ? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)) : null;
      addresses.set(id, bytes && URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
    }
    return addresses.get(id);
  };
  const paint = (target, id, options = {}) => {
    for (const [name, held] of Object.entries(options)) target.style.setProperty(name, held);
    complete.then(() => {
      const url = address(id);
      if (url) target.style.backgroundImage = `url("${url}")`;
    });
  };
  const view = (i, lazy) => {
    const box = element("div", "view");
    const planes = value("planes", i);
    if (!planes) {
      box.append(element("span", "", value("error", i) ? "no picture: it could not be read" : "no picture"));
      return box;
    }
    const names = planes.split(",");
    const at = columns.place[i], per = sheets.per, within = at % per;
    const sheet = Math.floor(at / per);
    const picture = element("span", "planes");
    picture.setAttribute("role", "img");
    const labels = value("labels", i);
    picture.setAttribute("aria-label", `stack ${columns.number[i]}: ${names.filter(Boolean).join(", ") || "slice"}${labels ? `, with ${labels}` : ""}`);
    const options = {
      "--k": names.length, "--w": sheets.across * sheets.planes,
      "--x": (within % sheets.across) * sheets.planes, "--y": Math.floor(within / sheets.across),
    };
    const fill = () => {
      paint(picture, `sheet-${sheet}`);
      if (labels) {
        const over = element("i");
        paint(over, `marks-${sheet}`);
        picture.append(over);
      }
    };
    for (const [name, held] of Object.entries(options)) picture.style.setProperty(name, held);
    if (lazy) { picture.fill = fill; near.observe(picture); } else fill();
    box.append(picture);
    return box;
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      entry.target.fill();
    }
  }, { rootMargin: "600px" });

  // --- cards and rows ---

  const tag = (i) => {
    const verdict = value("verdict", i);
    const kind = columns.needs[i] ? "warn" : verdict === "no_geometry" ? "" : "good";
    return element("span", `tag ${kind}`, wordy(verdict));
  };
  const title = (i) => `${columns.number[i]} · ${value("modality", i) || "?"}${value("description", i) ? ` · ${value("description", i)}` : ""}`;
  const format = (name, i) => {
    const held = value(name, i);
    if (held === null || held === undefined || held === "") return "";
    return typeof held === "number" ? held.toLocaleString("en", { maximumFractionDigits: 3 }) : wordy(held);
  };
  const size = (i) => ["slices", "rows", "columns"].map((name) => format(name, i) || "?").join(" × ");
  const spacing = (i) => ["dz", "dy", "dx"].map((name) => format(name, i) || "?").join(" × ");
  const card = (i) => {
    const made = element("a", "card");
    made.href = `#stack=${columns.number[i]}`;
    made.dataset.at = i;
    const body = element("div");
    const head = element("div");
    head.append(tag(i), " ", element("b", "", title(i)));
    body.append(head, element("div", "", value("reason", i)));
    const facts = [size(i), `${spacing(i)} mm`, `${format("mb", i)} MB`];
    if (value("part", i)) facts.push(value("part", i));
    body.append(element("div", "line", facts.join(" · ")), element("div", "line", value("folder", i)));
    if (value("labels", i)) body.append(element("div", "line", `labels: ${value("labels", i)}`));
    made.append(view(i, true), body);
    return made;
  };
  const tabled = fields.filter((field) => field.tabled);
  const row = (i) => {
    const made = element("tr");
    for (const field of tabled) {
      const cell = element("td", field.right ? "n" : "");
      if (field.name === "number") {
        const to = element("a", "", format("number", i));
        to.href = `#stack=${columns.number[i]}`;
        to.dataset.at = i;
        cell.append(to);
      } else if (field.name === "verdict") cell.append(tag(i));
      else cell.textContent = format(field.name, i);
      made.append(cell);
    }
    return made;
  };

  // --- one stack ---

  const dialog = $("stack");
  const open = (i) => {
    opened = i;
    $("stack-title").textContent = title(i);
    $("stack-reason").replaceChildren(tag(i), ` ${value("reason", i)}`);
    const names = element("div", "names");
    for (const name of (value("planes", i) || "").split(",")) names.append(element("span", "", name));
    $("stack-view").replaceChildren(view(i, false), names);
    const legend = (value("labels", i) || "").split("; ").filter(Boolean).map((name) => {
      const entry = element("span");
      const swatch = element("span", "swatch");
      swatch.style.background = colours[name] ?? "transparent";
      entry.append(swatch, name);
      return entry;
    });
    $("stack-legend").replaceChildren(...legend);
    const strip = strips[columns.number[i]];
    const slider = $("stack-slider"), range = slider.querySelector("input");
    slider.hidden = !strip;
    if (strip) {
      const picture = element("span", "planes");
      const over = element("i");
      picture.append(over);
      const options = { "--k": 1, "--w": strip.length, "--y": 0 };
      paint(picture, `strip-${columns.number[i]}`, options);
      paint(over, `strip-marks-${columns.number[i]}`);
      slider.querySelector(".view").replaceChildren(picture);
      range.max = strip.length - 1;
      const turn = () => {
        picture.style.setProperty("--x", range.value);
        $("slice").textContent = `slice ${strip[range.value]} of ${columns.slices[i]}`;
      };
      range.oninput = turn;
      range.value = Math.floor(strip.length / 2);
      turn();
    }
    const facts = [];
    for (const field of fields) {
      if (["number", "reason", "labels"].includes(field.name)) continue;
      const text = format(field.name, i);
      if (text) facts.push(element("dt", "", field.title), element("dd", "", `${text}${field.unit ? ` ${field.unit}` : ""}`));
    }
    $("stack-facts").replaceChildren(...facts);
    if (!dialog.open) dialog.showModal();
    write();
  };
  const step = (by) => {
    const at = shown.indexOf(opened) + by;
    if (at >= 0 && at < shown.length) open(shown[at]);
  };
  dialog.addEventListener("close", () => {
    const last = opened;
    opened = -1;
    write();
    document.querySelector(`[data-at="${last}"]`)?.focus();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  $("close").onclick = () => dialog.close();
  $("back").onclick = () => step(-1);
  $("next").onclick = () => step(1);

  // --- controls ---

  for (const facet of data.facets) {
    const select = element("select");
    select.id = `facet-${facet.name}`;
    select.setAttribute("aria-label", facet.title);
    const all = element("option", "", `every ${facet.title}`);
    all.value = "";
    select.append(all);
    const totals = new Map();
    for (const code of columns[facet.name].c) totals.set(code, (totals.get(code) ?? 0) + 1);
    for (const [code, total] of [...totals].sort((a, b) => b[1] - a[1])) {
      const held = columns[facet.name].v[code];
      const option = element("option", "", `${wordy(held) || "(none)"} (${total.toLocaleString("en")})`);
      option.value = held;
      select.append(option);
    }
    select.onchange = () => change(facet.name, select.value);
    $("facets").append(select);
  }
  for (const field of fields) {
    const option = element("option", "", `by ${field.title}`);
    option.value = field.name;
    $("sort").append(option);
  }
  for (const field of tabled) {
    const th = element("th", field.right ? "n" : "");
    th.scope = "col";
    th.dataset.name = field.name;
    const button = element("button", "", field.title);
    button.type = "button";
    button.onclick = () => {
      state.desc = state.sort === field.name && !state.desc ? "1" : "";
      change("sort", field.name);
    };
    th.append(button);
    $("table").querySelector("thead tr").append(th);
  }
  $("q").oninput = () => { state.q = $("q").value; filter(); write(); };
  $("needs").onchange = () => change("needs", $("needs").checked ? "1" : "");
  $("firsts").onchange = () => change("firsts", $("firsts").checked ? "1" : "");
  $("firsts").parentElement.hidden = !columns.first.includes(0);
  $("sort").onchange = () => change("sort", $("sort").value);
  $("order").onclick = () => change("desc", state.desc ? "" : "1");
  const turnMode = () => change("view", state.view === "table" ? "cards" : "table");
  const turnLabels = () => {
    state.labels = state.labels ? "" : "1";
    document.body.classList.toggle("no-labels", !state.labels);
    $("overlay").setAttribute("aria-pressed", String(Boolean(state.labels)));
    write();
  };
  $("mode").onclick = turnMode;
  $("overlay").onclick = turnLabels;
  $("clear").onclick = () => {
    Object.assign(state, initial, { view: state.view, labels: state.labels });
    refresh();
    write();
  };
  new IntersectionObserver((entries) => {
    if (entries[0].isIntersecting && drawn < shown.length) more(48);
  }, { rootMargin: "1200px" }).observe($("more"));
  addEventListener("beforeprint", () => more(Math.max(0, 400 - drawn)));
  document.addEventListener("click", (event) => {
    const at = event.target.closest?.("[data-at]")?.dataset.at;
    if (at === undefined || event.metaKey || event.ctrlKey) return;
    event.preventDefault();
    open(Number(at));
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.("input, select, textarea");
    if (dialog.open) {
      if (!typing && ["ArrowLeft", "k"].includes(event.key)) step(-1);
      if (!typing && ["ArrowRight", "j"].includes(event.key)) step(1);
      if (event.key === "l") turnLabels();
      return;
    }
    if (typing) return;
    const items = [...document.querySelectorAll("#stacks [data-at]")].filter((item) => item.offsetParent);
    const at = items.indexOf(document.activeElement);
    const actions = {
      "/": () => $("q").focus(), t: turnMode, l: turnLabels,
      j: () => items[Math.min(at + 1, items.length - 1)]?.focus(),
      k: () => items[Math.max(at - 1, 0)]?.focus(),
    };
    if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
  });
  const follow = () => {
    if (!read()) return;
    const wanted = opened;
    refresh();
    if (wanted >= 0) open(wanted);
    else { if (dialog.open) dialog.close(); $("stacks").scrollIntoView(); }
  };
  addEventListener("hashchange", follow);
  refresh();
  follow();
})();
