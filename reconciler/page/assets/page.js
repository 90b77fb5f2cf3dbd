// Draws the documents of /api/v1 and asks again every few seconds. Everything reaches the page as text: what stands in
// the table comes from DAG authors and from AWS, so nothing is ever parsed as markup.

const EVERY = 3000;
const $ = (id) => document.getElementById(id);
const filters = $("filters");
let token = sessionStorage.getItem("token") || "";
let known = { dags: new Set(), queues: new Set() };

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => child.nodeType ? child : String(child)));
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${Math.max(0, Math.round(seconds * 10) / 10)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

const clock = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

async function get(path) {
  const answer = await fetch(`api/v1/${path}`, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (answer.status === 401 && answer.headers.has("WWW-Authenticate")) throw Object.assign(new Error("token"), { token: true });
  const document_ = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(document_.error || refusal(answer.status)), { answered: true });
  return document_;
}

// Airflow's own refusals are made for programs.
const refusal = (status) => ({ 401: "log in to Airflow again", 403: "you may not see this: it needs the right to read the DAG and its task instances" })[status] || `HTTP ${status}`;

const asked = () => new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));

function plot(place, columns, at, { step, unit = "" }) {
  const width = 400, height = 120, left = 30, bottom = 16, top = 8;
  const values = columns.flatMap((column) => column.values).filter((value) => value !== null);
  const most = Math.max(1, ...values);
  const x = (i) => left + (width - left - 4) * (at.length > 1 ? i / (at.length - 1) : 1);
  const y = (value) => top + (height - top - bottom) * (1 - value / most);
  const said = columns.map((column) => `${column.name} ${column.values.findLast((value) => value !== null) ?? "unknown"}${unit}`).join(", ");
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "plot", role: "img", "aria-label": `now: ${said}`, preserveAspectRatio: "none" });
  for (const mark of [0, most]) {
    svg.append(drawn("line", { x1: left, x2: width, y1: y(mark), y2: y(mark) }));
    svg.append(drawn("text", { x: left - 4, y: y(mark) + 4, "text-anchor": "end" }, mark >= 10 ? Math.round(mark) : Math.round(mark * 10) / 10));
  }
  if (at.length) {
    svg.append(drawn("text", { x: left, y: height - 3 }, clock(at[0]).slice(0, 5)));
    svg.append(drawn("text", { x: width - 4, y: height - 3, "text-anchor": "end" }, "now"));
  }
  for (const column of columns) {
    const points = column.values.map((value, i) => [x(i), value]).filter(([, value]) => value !== null);
    // One point alone is drawn as a short dash, or nothing would be seen of a daemon that has just begun.
    if (points.length === 1) points.unshift([points[0][0] - 6, points[0][1]]);
    const path = points.map(([at_, value], i) => `${i ? "L" : "M"}${at_.toFixed(1)} ${y(value).toFixed(1)}`).join("");
    const line = drawn("path", { d: path || "M0 0", fill: "none", "stroke-width": 1.8, "stroke-linejoin": "round", "vector-effect": "non-scaling-stroke", ...(column.dash ? { "stroke-dasharray": "4 3" } : {}) });
    line.style.stroke = `var(--${column.colour})`;
    svg.append(line);
  }
  const names = columns.map((column) => { const key = element("i"); key.style.background = `var(--${column.colour})`; return element("li", {}, key, column.name); });
  place.replaceChildren(svg, element("ul", { class: "legend" }, ...names));
}

// Of several accounts and regions it has to be said which is meant.
const several = (status) => Boolean(status.table && status.table.leaders.length > 1);

function showStatus(status) {
  const { table, history } = status;
  document.title = `${status.health.state === "ok" ? "" : "! "}${status.deployment} · ecs-reconciler`;
  $("deployment").textContent = status.deployment;
  $("version").textContent = `ecs-reconciler ${status.version}`;
  $("stamp").textContent = `${clock(status.now)}${status.this_replica ? (status.this_replica.leading ? ` · this replica leads${several(status) ? ` ${status.this_replica.leads.join(", ")}` : ""}` : " · this replica stands by") : ""}`;
  showHealth(status.health.state, status.health.reasons);
  if (table) {
    const quota = table.quota;
    $("used").textContent = quota.used;
    $("limit").textContent = quota.limit;
    $("pending").textContent = quota.pending;
    $("oldest").textContent = quota.pending ? duration(table.oldest_pending_seconds) : "–";
    const parts = ["running", "starting", "stopping"];
    $("gauge").setAttribute("aria-label", `${quota.used} of ${quota.limit} used: ${parts.map((part) => `${quota[part]} ${part}`).join(", ")}`);
    $("gauge").replaceChildren(...parts.map((part) => { const bar = element("i", { class: part }); bar.style.width = `${(100 * quota[part]) / Math.max(quota.limit, quota.used)}%`; return bar; }));
    $("legend").replaceChildren(...parts.map((part) => element("li", {}, element("i", { class: part }), `${quota[part]} ${part}`)), element("li", { class: "dim" }, `${quota.headroom} free`));
    Object.keys(table.queues).forEach((queue) => known.queues.add(queue));
  }
  const has = Boolean(history && history.at.length);
  for (const id of ["h-hour", "h-through", "h-stages", "h-rate", "h-start"]) $(id).parentElement.hidden = !has;
  if (has) showHistory(status, history);
  $("controllers").replaceChildren(...(status.controllers || []).map((controller) => element("tr", {},
    element("td", { class: "tight" }, controller.name + (several(status) && controller.shard ? ` in ${controller.shard}` : "")),
    element("td", { class: "tight", "data-label": "last pass" }, controller.last_pass_at ? `${duration(status.now - controller.last_pass_at)} ago` : "not here"),
    element("td", { class: "tight" }, controller.result || ""),
    element("td", { class: "tight", "data-label": "took" }, controller.duration_seconds === null ? "" : `${Math.round(controller.duration_seconds * 1000)} ms`),
    element("td", { class: "tight", "data-label": "backlog" }, controller.backlog ?? ""))));
  $("h-controllers").parentElement.hidden = !(status.controllers || []).length;
  showFacts(status, table);
}

function showHistory(status, history) {
  const perMinute = 60 / history.step_seconds;
  const last = (name, count) => history[name].slice(-count - 1, -1);
  const launched = history.at.length > 1 ? last("launched", 2 * perMinute) : history.launched;
  $("rate").textContent = launched.length ? Math.round(launched.reduce((a, b) => a + b, 0) / launched.length * perMinute) : "–";
  // Of several accounts and regions each has a limit of its own: "eu-west-1/launch".
  const buckets = Object.entries(status.launches ? status.launches.buckets : {}).filter(([name]) => name.split("/").pop() === "launch");
  const allowed = buckets.reduce((sum, [, bucket]) => sum + bucket.allowed, 0);
  $("allowed").textContent = buckets.length ? `${Math.round(allowed * 60)} a minute` : "–";
  const recent = (name) => history[name].findLast((value) => value !== null);
  $("start").textContent = duration(recent("started_seconds_p50"));
  $("start95").textContent = duration(recent("started_seconds_p95"));
  const scaled = (values) => values.map((value) => value * perMinute);
  plot($("levels"), [
    { name: "running", colour: "running", values: history.running },
    { name: "starting", colour: "starting", values: history.starting },
    { name: "pending", colour: "pending", values: history.pending, dash: true }], history.at, {});
  plot($("through"), [
    { name: "launched", colour: "running", values: scaled(history.launched) },
    { name: "ended", colour: "stopping", values: scaled(history.ended) },
    { name: "of these failed", colour: "bad", values: scaled(history.failed) }], history.at, {});
  plot($("stages"), [
    { name: "median", colour: "running", values: history.started_seconds_p50 },
    { name: "95 %", colour: "starting", values: history.started_seconds_p95, dash: true }], history.at, { unit: " s" });
}

function showFacts(status, table) {
  const facts = [];
  for (const leader of table ? table.leaders : []) facts.push([leader.valid ? "leader" : "lease ran out", `${leader.holder} (${leader.name}, epoch ${leader.epoch})`]);
  if (table && !table.leaders.length) facts.push(["leader", "none yet"]);
  for (const hold of table ? table.holds : []) facts.push([hold.mode, `${hold.queue ? `queue ${hold.queue}` : "all queues"}, by ${hold.held_by}`]);
  if (status.this_replica && status.this_replica.holder) facts.push(["this replica", status.this_replica.holder]);
  for (const [name, bucket] of Object.entries(status.launches ? status.launches.buckets : {})) facts.push([`${name} calls`, `${bucket.allowed.toFixed(1)} a second allowed, ${Math.floor(bucket.tokens)} at once, ${bucket.waiting} wait`]);
  for (const [name, reason] of Object.entries(status.launches ? status.launches.held : {})) facts.push([`held (${name})`, reason]);
  for (const [name, on] of Object.entries(status.breakers || {})) facts.push([`breaker ${name}`, on ? "tripped" : "closed"]);
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function showHealth(state, reasons) {
  $("health").className = `badge ${state}`;
  $("health").textContent = { ok: "healthy", degraded: "degraded", down: "down" }[state] || state;
  $("reasons").hidden = !reasons.length;
  $("reasons").replaceChildren(...reasons.map((reason) => element("li", {}, reason)));
}

function showWorkloads(found) {
  $("found").textContent = `${found.workloads.length}${found.truncated ? " shown, there are more" : ""}`;
  const rows = found.workloads.map((w) => {
    known.dags.add(w.dag_id); known.queues.add(w.queue);
    const index = w.map_index >= 0 ? `[${w.map_index}]` : "";
    const links = Object.entries(w.links).flatMap(([name, url]) => [element("a", { href: url, target: "_blank", rel: "noreferrer" }, { ecs: "ECS", airflow: "Airflow", logs: "log" }[name] || name), " "]);
    return element("tr", w.problem ? { class: "problem" } : {},
      element("td", {}, w.kind === "callback" ? `callback ${w.exec_id}` : `${w.dag_id}.${w.task_id}${index}`, element("span", { class: "run" }, `${w.run_id} try ${w.try_number}`)),
      element("td", {}, element("span", { class: `phase ${w.phase}` }, w.phase)),
      element("td", {}, w.why),
      element("td", { class: "queue", "data-label": "queue" }, w.queue),
      element("td", { class: "tight", "data-label": "attempt" }, w.attempt || ""),
      element("td", { class: "tight", "data-label": "age" }, duration(w.age_seconds)),
      element("td", { class: "tight" }, ...links));
  });
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: 7, class: "dim" }, "No workload matches.")));
  $("rows").replaceChildren(...rows);
  for (const name of ["dags", "queues"]) $(name).replaceChildren(...[...known[name]].sort().map((value) => element("option", { value })));
}

function showEvents(found) {
  const lines = found.events.map((event) => element("li", event.problem ? { class: "problem" } : {},
    element("span", { class: "dim" }, event.at ? clock(event.at) : ""),
    element("span", { class: `phase ${event.phase || ""}` }, event.phase || ""),
    element("span", {}, event.task ? `${event.task}${event.attempt > 1 ? `, attempt ${event.attempt}` : ""}${event.what ? `: ${event.what}` : ""}` : event.what)));
  $("events").replaceChildren(...lines);
  $("events").parentElement.hidden = !lines.length;
}

async function refresh() {
  dress();
  try {
    const query = asked();
    document.body.classList.toggle("one", query.has("task"));
    const status = await get("status");
    $("login").hidden = true;
    document.querySelector("main").hidden = false;
    showStatus(status);
    const rest = await Promise.allSettled([get(`workloads?${query}`), get(`events?${query}`)]);
    if (rest[0].status === "fulfilled") showWorkloads(rest[0].value);
    else if (status.table) showHealth("degraded", [...status.health.reasons, rest[0].reason.message]);
    if (rest[1].status === "fulfilled") showEvents(rest[1].value);
  } catch (error) {
    if (error.token) { $("login").hidden = false; $("health").textContent = "locked"; $("token").focus(); return; }
    showHealth("down", [error.answered ? error.message : `the daemon does not answer: ${error.message}`]);
  }
  setTimeout(refresh, EVERY);
}

for (const phase of ["PENDING", "LAUNCHING", "STARTED", "RUNNING", "STOPPING", "EXITED", "FAILED_START", "CANCELLED", "LOST"]) filters.elements.phase.append(element("option", { value: phase }, phase));
// Airflow puts in what it knows of a task instance, and leaves {MAP_INDEX} of one that is not mapped.
for (const [name, value] of new URLSearchParams(location.search)) if (filters.elements[name] && !/^\{.*\}$/.test(value)) filters.elements[name].value = value;
let typed;
filters.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(async () => {
    const query = asked();
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
    try { showWorkloads(await get(`workloads?${query}`)); } catch (error) { $("found").textContent = error.message; }
  }, 250);
});
filters.addEventListener("submit", (event) => event.preventDefault());
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  sessionStorage.setItem("token", token);
  refresh();
});
// Airflow shows this page in a frame. It is as bright as the page around it, whatever the browser prefers; and as the frame
// may open nothing, and others refuse to be shown in one, a link is followed by the page around it.
const around = window.parent === window ? null : window.parent.document;
const dress = () => { if (around) document.documentElement.style.colorScheme = getComputedStyle(around.documentElement).colorScheme; };
if (around) document.addEventListener("click", (event) => {
  const link = event.target.closest("a[target=_blank]");
  if (!link) return;
  event.preventDefault();
  Object.assign(around.createElement("a"), { href: link.href, target: "_blank", rel: "noreferrer" }).click();
});
refresh();
