"use strict";
// The page at /ui. It talks to the documented routes of this server only, and keeps nothing.

// The page is at /ui, possibly below a proxy's prefix; the routes are its siblings.
const base = new URL("./", location.href);
const $ = (id) => document.getElementById(id);

/** An element: name, attributes and properties, children (nodes or texts; texts are never parsed as HTML). */
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** What the server says is wrong: both forms of errors. */
function faultOf(status, text) {
  try {
    const { error, message } = JSON.parse(text);
    return (error && error.message) || error || message || text;
  } catch {
    return text || `status ${status}`;
  }
}

/** The key that the server asked for, for as long as the page is open; it is stored nowhere. */
let key = "";

async function request(path, body, signal) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const options = { method: body === undefined ? "GET" : "POST", headers, signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  const response = await fetch(new URL(path, base), options).catch((fault) => {
    // Browsers say no more than that it failed.
    throw fault.name === "AbortError" ? fault : new Error("The server cannot be reached.");
  });
  if (response.ok) return response;
  if (response.status === 401) $("key").hidden = false;
  const fault = new Error(`${response.status}: ${faultOf(response.status, await response.text())}`);
  throw Object.assign(fault, { status: response.status });
}

async function ask(path, body, signal) {
  if (body !== undefined) {
    $("request").textContent = `POST /${path}\n${JSON.stringify(body, null, 2)}`;
  }
  const response = await request(path, body, signal);
  const cut = response.headers.get("x-truncated");
  if (cut) $("took").dataset.cut = cut;
  return response.json();
}

// Models

let models = [];

/** The models that can do one of these; all of them where the server does not say. */
function able(...abilities) {
  const fit = models.filter((model) => model.tasks && model.tasks.some((task) => abilities.includes(task)));
  return fit.length || models.some((model) => model.tasks) ? fit : models;
}

// Parts of forms and results

const field = (name, label, control) => el("label", {}, label, Object.assign(control, { name }));
const area = (name, label, value) => field(name, label, el("textarea", { value, required: true, spellcheck: false }));
const line = (name, label, value) => field(name, label, el("input", { value, required: true, autocomplete: "off" }));
const number = (name, label, value, min, max, step) =>
  field(name, label, el("input", { type: "number", value, min, max, step, required: true }));
const choice = (name, label, options) =>
  field(name, label, el("select", {}, options.map(([value, text]) => el("option", { value }, text))));
const modelChoice = (name, label, abilities) =>
  choice(name, label, able(...abilities).map((model) => [model.id, model.id]));
const row = (...children) => el("div", { class: "row" }, children);
const lines = (text) => text.split("\n").map((one) => one.trim()).filter(Boolean);
/** White space that can be seen. */
const visible = (text) =>
  text.replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length)).replace(/\n/g, "↵").replace(/\t/g, "→") || "∅";
const percent = (p) => (p >= 0.001 || p === 0 ? `${(100 * p).toFixed(1)} %` : `${Number((100 * p).toPrecision(1))} %`);
const bar = (share, kind = "") =>
  el("span", { class: `bar ${kind}`, style: `width:${100 * Math.min(1, Math.max(0, share))}%`, ariaHidden: "true" });

/** A table: columns are [heading, cell of a row, whether it is a number]. */
function table(caption, columns, rows) {
  const head = columns.map(([heading, , numeric]) =>
    el("th", { scope: "col", class: numeric ? "number" : "" }, heading));
  const body = rows.map((one, i) =>
    el("tr", {}, columns.map(([, cell, numeric]) => el("td", { class: numeric ? "number" : "" }, cell(one, i)))));
  return el("div", { class: "scroll" },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
}

const scores = (caption, list, label) =>
  table(caption, [
    ["label", (one) => label(one)],
    ["score", (one) => one.score.toFixed(4), true],
    ["", (one) => el("div", { class: "track" }, bar(one.score))],
  ], list);

function show(...nodes) {
  $("result").replaceChildren(...nodes);
}

const cosine = (a, b) => {
  let [dot, aa, bb] = [0, 0, 0];
  a.forEach((x, i) => { dot += x * b[i]; aa += x * x; bb += b[i] * b[i]; });
  return dot / Math.sqrt(aa * bb);
};

/** Runs `work` on all items, a few at a time; the order of results is that of items. */
async function each(items, width, work) {
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const i = next++;
      results[i] = await work(items[i], i);
    }
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}

/** The events of a stream, without `[DONE]`. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data:")) continue;
      const data = part.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

// An encoder beside a decoder

const MAX_COMPARED = 48; // tokens: each one is a request of its own

/** Probabilities of tokens given what stands before them. Both models have one tokenizer: tokens match by place. */
async function causalOf(text, model, signal) {
  const answer = await ask("v1/completions",
    { model, prompt: text, max_tokens: 0, echo: true, logprobs: 1, temperature: 0 }, signal);
  const { tokens, token_logprobs: logprobs, text_offset: offsets } = answer.choices[0].logprobs;
  // Special tokens before the text may be part of what is echoed.
  const first = tokens.findIndex((string) => string && text.startsWith(string));
  const origin = first < 0 ? 0 : offsets[first];
  const at = new Map();
  tokens.forEach((string, i) => { if (i >= first && !at.has(offsets[i] - origin)) at.set(offsets[i] - origin, i); });
  return {
    of(token) {
      const found = at.get(token.from) ?? at.get(token.from - 1);
      const logprob = found === undefined ? null : logprobs[found];
      return logprob === null || logprob === undefined ? null : Math.exp(logprob);
    },
  };
}

/** Probabilities of tokens given both sides: each is masked in turn. Adds its word and place to each token. */
async function maskedOf(text, tokens, model, signal) {
  const bytes = new TextEncoder().encode(text);
  const slice = (from, to) => new TextDecoder().decode(bytes.slice(from, to));
  for (const token of tokens) {
    token.word = slice(token.start, token.stop);
    token.from = [...slice(0, token.start)].length;
  }
  return each(tokens, 4, async (token) => {
    const [word, before] = [token.word, slice(0, token.start)];
    const inputs = `${before}${word.startsWith(" ") ? " " : ""}[MASK]${slice(token.stop, bytes.length)}`;
    // The server gives the likeliest, not those that are asked for; what is not among so many has hardly a chance.
    const body = { model, inputs, parameters: { top_k: 4096 } };
    const answer = await request("", body, signal).then((response) => response.json()).catch((fault) => {
      // Part of a character is no word that can be asked for. Anything else is an error.
      if (fault.status === 400 || fault.status === 422) return [];
      throw fault;
    });
    const found = answer.flat().find((one) => one.token === token.id);
    return found ? found.score : null;
  });
}

// Tasks

const tasks = [
  {
    name: "Compare",
    about: "One text through an encoder and a decoder: how likely is each token when both sides are known (masked), " +
      "and when only what stands before it is (causal)? And how alike do both find two texts?",
    fits: () => able("fill-mask").length && able("generate").length,
    fields: () => [
      area("text", "Text", "The capital of France is Paris, and the capital of Italy is Rome."),
      area("other", "Another text, to compare it with", "Rome is the capital of Italy, and Paris is that of France."),
      row(modelChoice("encoder", "Encoder", ["fill-mask"]), modelChoice("decoder", "Decoder", ["generate"])),
    ],
    async run({ text, other, encoder, decoder }, signal) {
      const [tokens] = await ask("tokenize", { inputs: text, add_special_tokens: false, model: encoder }, signal);
      const shown = tokens.filter((token) => token.start !== null).slice(0, MAX_COMPARED);
      const [causal, masked, cosines] = await Promise.all([
        causalOf(text, decoder, signal),
        maskedOf(text, shown, encoder, signal),
        each([encoder, decoder], 2, async (model) => {
          if (!able("embed").some((one) => one.id === model)) return null;
          return cosine(...await ask("embed", { inputs: [text, other], model }, signal));
        }),
      ]);
      const rows = shown.map((token, i) => ({ ...token, masked: masked[i], causal: causal.of(token) }));
      const both = rows.filter((one) => one.masked !== null && one.causal !== null);
      const perplexity = (kind) => Math.exp(-both.reduce((sum, one) => sum + Math.log(one[kind]), 0) / both.length);
      const shares = (kind) => (one) => el("div", { class: "share" },
        el("span", { class: "amount" }, one[kind] === null ? "–" : percent(one[kind])),
        el("div", { class: "track" }, one[kind] === null ? "" : bar(one[kind], kind)));
      show(
        el("p", { class: "key" },
          el("span", { class: "masked" }, "masked (encoder)"), el("span", { class: "causal" }, "causal (decoder)")),
        table("Probability of each token", [
          ["token", (one) => visible(one.word)],
          ["masked", shares("masked")],
          ["causal", shares("causal")],
        ], rows),
        both.length ? el("p", { class: "hint" }, `Perplexity of the ${both.length} tokens that both know: ` +
          `masked ${perplexity("masked").toFixed(1)}, causal ${perplexity("causal").toFixed(1)}. ` +
          "The first token has nothing before it.") : "",
        tokens.length > shown.length
          ? el("p", { class: "hint" }, `Shown are the first ${shown.length} of ${tokens.length} tokens.`) : "",
        table("Cosine of both texts", [
          ["model", (one) => one.model],
          ["cosine", (one) => (one.cosine === null ? "–" : one.cosine.toFixed(3)), true],
          ["", (one) => el("div", { class: "track" }, one.cosine === null ? "" : bar(one.cosine, one.kind))],
        ], [
          { model: encoder, kind: "masked", cosine: cosines[0] },
          { model: decoder, kind: "causal", cosine: cosines[1] },
        ]),
      );
    },
  },
  {
    name: "Embed",
    about: "Cosines of all pairs of texts, of one model or of two side by side.",
    fits: () => able("embed").length,
    fields: () => [
      area("texts", "Texts, one a line",
        "A cat sits on the mat.\nA kitten rests on a rug.\nStocks fell sharply today."),
      row(modelChoice("model", "Model", ["embed"]),
        choice("beside", "Beside it", [["", "none"], ...able("embed").map((model) => [model.id, model.id])])),
    ],
    async run({ texts, model, beside }, signal) {
      const inputs = lines(texts);
      const parts = await each([model, beside].filter(Boolean), 2, async (model) => {
        const vectors = await ask("embed", { inputs, model }, signal);
        const columns = inputs.map((_, i) => [`${i + 1}`, (one) => cosine(vectors[one], vectors[i]).toFixed(3), true]);
        return [
          table(`Cosines, ${model}`,
            [["text", (one) => `${one + 1}. ${inputs[one]}`], ...columns], inputs.map((_, i) => i)),
          el("p", { class: "hint" }, `${vectors[0].length} numbers a vector`),
        ];
      });
      show(...parts.flat());
    },
  },
  {
    name: "Sparse",
    about: "The words that a text is found by, with their weights.",
    fits: () => able("embed-sparse").length,
    fields: () => [
      area("text", "Text", "The train to Rome leaves at noon."),
      modelChoice("model", "Model", ["embed-sparse"]),
    ],
    async run({ text, model }, signal) {
      const [entries] = await ask("embed_sparse", { inputs: text, model }, signal);
      const best = [...entries].sort((a, b) => b.value - a.value).slice(0, 30);
      const ids = best.map((one) => [one.index]);
      const words = await ask("decode", { ids, skip_special_tokens: false, model }, signal);
      const most = best.length ? best[0].value : 1;
      show(
        table("Words", [
          ["word", (_, i) => visible(words[i])],
          ["weight", (one) => one.value.toFixed(3), true],
          ["", (one) => el("div", { class: "track" }, bar(one.value / most))],
        ], best),
        el("p", { class: "hint" }, `${best.length} of ${entries.length} words`),
      );
    },
  },
  {
    name: "Fill mask",
    about: "Words for each [MASK].",
    fits: () => able("fill-mask").length,
    fields: () => [
      area("text", "Text with [MASK]", "The capital of France is [MASK]."),
      row(modelChoice("model", "Model", ["fill-mask"]), number("top_k", "Words", 5, 1, 50, 1)),
    ],
    async run({ text, model, top_k }, signal) {
      const parameters = { top_k: Number(top_k), targets: null };
      const answer = await ask("", { model, inputs: text, parameters }, signal);
      const masks = Array.isArray(answer[0]) ? answer : [answer];
      show(...masks.map((words, i) =>
        scores(masks.length > 1 ? `Mask ${i + 1}` : "Words", words, (one) => one.token_str)));
    },
  },
  {
    name: "Classify",
    about: "Labels of a text.",
    fits: () => able("classify").length,
    fields: () => [area("text", "Text", "What a lovely day!"), modelChoice("model", "Model", ["classify"])],
    async run({ text, model }, signal) {
      show(scores("Labels", await ask("predict", { inputs: text, model }, signal), (one) => one.label));
    },
  },
  {
    name: "Zero-shot",
    about: "Labels of your own.",
    fits: () => able("zero-shot").length,
    fields: () => [
      area("text", "Text", "The match ended two to one."),
      line("labels", "Labels, with commas", "sport, politics, science"),
      modelChoice("model", "Model", ["zero-shot"]),
    ],
    async run({ text, labels, model }, signal) {
      const candidate_labels = labels.split(",").map((label) => label.trim()).filter(Boolean);
      const answer = await ask("", { model, inputs: text, parameters: { candidate_labels } }, signal);
      show(scores("Labels", answer, (one) => one.label));
    },
  },
  {
    name: "Tag",
    about: "Labels within a text.",
    fits: () => able("tag").length,
    fields: () => [area("text", "Text", "Ada Lovelace was born in London."), modelChoice("model", "Model", ["tag"])],
    async run({ text, model }, signal) {
      const spans = await ask("", { model, inputs: text, parameters: { aggregation_strategy: "simple" } }, signal);
      const characters = [...text];
      const parts = [];
      let at = 0;
      for (const span of [...spans].sort((a, b) => a.start - b.start)) {
        if (span.start < at) continue;
        parts.push(characters.slice(at, span.start).join(""));
        const words = characters.slice(span.start, span.end).join("");
        const label = `${span.entity_group ?? span.entity} ${percent(span.score)}`;
        parts.push(el("mark", {}, words, el("small", {}, label)));
        at = span.end;
      }
      parts.push(characters.slice(at).join(""));
      show(el("p", { class: "text" }, parts));
    },
  },
  {
    name: "Answer",
    about: "Answers to a question within a text.",
    fits: () => able("answer").length,
    fields: () => [
      line("question", "Question", "Where was Ada born?"),
      area("context", "Text", "Ada Lovelace was born in London in 1815."),
      modelChoice("model", "Model", ["answer"]),
    ],
    async run({ question, context, model }, signal) {
      const answers = await ask("", { model, inputs: { question, context }, parameters: {} }, signal);
      show(scores("Answers", [answers].flat(), (one) => one.answer || "(none)"));
    },
  },
  {
    name: "Rerank",
    about: "Texts by how well they answer a query.",
    fits: () => able("rerank").length,
    fields: () => [
      line("query", "Query", "How do I bake bread?"),
      area("texts", "Texts, one a line", "Mix flour, water, salt and yeast.\nThe train leaves at noon."),
      modelChoice("model", "Model", ["rerank"]),
    ],
    async run({ query, texts, model }, signal) {
      const ranks = await ask("rerank", { query, texts: lines(texts), return_text: true, model }, signal);
      show(table("Best first", [
        ["", (_, i) => `${i + 1}`, true],
        ["text", (one) => one.text],
        ["score", (one) => one.score.toFixed(4), true],
      ], ranks));
    },
  },
  {
    name: "Tokens",
    about: "The tokens of a text with their ids.",
    fits: () => models.length,
    fields: () => [area("text", "Text", "Tokenisation, naïvely 🙂"), modelChoice("model", "Model", [])],
    models: () => models,
    async run({ text, model }, signal) {
      const [tokens] = await ask("tokenize", { inputs: text, model }, signal);
      show(
        el("ol", { class: "tokens" }, tokens.map((token) =>
          el("li", { class: token.special ? "special" : "" }, visible(token.text), el("small", {}, `${token.id}`)))),
        el("p", { class: "hint" }, `${tokens.length} tokens`),
      );
    },
  },
  {
    name: "Generate",
    about: "A continuation, token by token.",
    fits: () => able("generate").length,
    fields: () => [
      area("prompt", "Text", "Once upon a time"),
      modelChoice("model", "Model", ["generate"]),
      row(number("max_tokens", "Tokens", 64, 1, 4096, 1), number("temperature", "Temperature", 0.8, 0, 5, 0.1),
        number("top_p", "Top p", 0.95, 0.01, 1, 0.01)),
    ],
    async run({ prompt, model, max_tokens, temperature, top_p }, signal) {
      const body = {
        model, prompt, max_tokens: Number(max_tokens), temperature: Number(temperature), top_p: Number(top_p),
        stream: true, stream_options: { include_usage: true },
      };
      $("request").textContent = `POST /v1/completions\n${JSON.stringify(body, null, 2)}`;
      const start = performance.now();
      const response = await request("v1/completions", body, signal);
      const text = el("span", { class: "new" });
      const note = el("p", { class: "hint" });
      show(el("p", { class: "text", ariaLive: "off" }, prompt, text), note);
      let first = 0;
      for await (const event of events(response)) {
        if (event.error) throw new Error(event.error.message);
        first ||= performance.now() - start;
        for (const one of event.choices) text.append(one.text);
        if (event.usage) {
          const tokens = event.usage.completion_tokens;
          const after = (performance.now() - start - first) / 1000;
          const rate = tokens > 1 && after > 0 ? `, then ${((tokens - 1) / after).toFixed(0)} tokens/s` : "";
          note.textContent = `${tokens} tokens; the first after ${first.toFixed(0)} ms${rate}`;
        }
      }
    },
  },
];

// The page

let current = null;
let running = null;

function open(task, focus) {
  if (running) running.abort();
  running = null;
  busy(false);
  current = task;
  for (const tab of $("tabs").children) {
    const selected = tab.textContent === task.name;
    tab.setAttribute("aria-selected", selected);
    tab.tabIndex = selected ? 0 : -1;
    if (selected) {
      $("panel").setAttribute("aria-labelledby", tab.id);
      if (focus) tab.focus();
    }
  }
  $("title").textContent = task.name;
  $("about").textContent = task.about;
  $("fields").replaceChildren(...task.fields());
  const select = $("fields").querySelector("select[name=model]");
  if (task.models && select) {
    select.replaceChildren(...task.models().map((model) => el("option", { value: model.id }, model.id)));
  }
  $("error").hidden = true;
  $("error").textContent = "";
  $("took").textContent = "";
  $("request").textContent = "";
  show();
  history.replaceState(null, "", `#${encodeURIComponent(task.name)}`);
}

function tabs() {
  const usable = tasks.filter((task) => task.fits());
  $("tabs").replaceChildren(...usable.map((task, i) =>
    el("button",
      { type: "button", role: "tab", id: `tab-${i}`, "aria-controls": "panel", onclick: () => open(task) },
      task.name)));
  $("tabs").onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = usable.indexOf(current);
    const next = event.key === "Home" ? 0 : event.key === "End" ? usable.length - 1 : at + (step ?? NaN);
    if (Number.isNaN(next)) return;
    event.preventDefault();
    open(usable[(next + usable.length) % usable.length], true);
  };
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = usable.find((task) => task.name === wanted) ?? usable[0];
  if (first) open(first);
  else $("about").textContent = "No model is loaded.";
}

function busy(yes) {
  // The button keeps the focus: it is not disabled, a second press does nothing.
  $("run").setAttribute("aria-disabled", yes);
  $("panel").setAttribute("aria-busy", yes);
  if (!yes && document.activeElement === $("stop")) $("run").focus();
  $("stop").hidden = !yes;
}

$("form").onsubmit = async (event) => {
  event.preventDefault();
  if (running) return;
  running = new AbortController();
  const mine = running;
  busy(true);
  $("error").hidden = true;
  $("error").textContent = "";
  delete $("took").dataset.cut;
  $("took").textContent = "running…";
  const start = performance.now();
  try {
    await current.run(Object.fromEntries(new FormData($("form"))), mine.signal);
    if (running !== mine) return;
    const cut = $("took").dataset.cut;
    const took = (performance.now() - start).toFixed(0);
    $("took").textContent = `done in ${took} ms${cut ? `; texts that were cut: ${cut}` : ""}`;
  } catch (fault) {
    if (running !== mine) return; // Another task was opened meanwhile.
    const stopped = fault.name === "AbortError";
    $("took").textContent = stopped ? "stopped" : "";
    if (!stopped) {
      $("error").textContent = fault.message;
      $("error").hidden = false;
    }
    // What still runs for this task is of no use.
    mine.abort();
  } finally {
    if (running === mine) {
      running = null;
      busy(false);
    }
  }
};
$("stop").onclick = () => running && running.abort();
document.onkeydown = (event) => {
  if (event.key === "Escape" && running) running.abort();
};
$("form").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
};

// Live figures

/** The sum of a metric over its labels. */
function metric(text, name) {
  let sum = null;
  for (const row of text.split("\n")) {
    if (!row.startsWith(name) || !/^[{ ]/.test(row.slice(name.length))) continue;
    const value = Number(row.slice(row.lastIndexOf(" ") + 1));
    if (!Number.isNaN(value)) sum = (sum ?? 0) + value;
  }
  return sum;
}

let last = null;
const rates = [];

async function watch() {
  try {
    const text = await (await request("metrics")).text();
    const now = {
      at: performance.now() / 1000,
      requests: metric(text, "te_request_count") ?? 0,
      finished: metric(text, "te_request_duration_count") ?? 0,
      seconds: metric(text, "te_request_duration_sum") ?? 0,
      failures: metric(text, "te_request_failure") ?? 0,
      tokens: metric(text, "te_batch_next_tokens_sum"),
      queue: metric(text, "te_queue_size") ?? 0,
    };
    const span = last ? now.at - last.at : null;
    const each = (key) => (last && now[key] !== null ? Math.max(0, now[key] - (last[key] ?? 0)) / span : null);
    const written = (rate, digits) => (rate === null ? "–" : rate.toFixed(digits));
    const rate = each("requests");
    const finished = last ? now.finished - last.finished : 0;
    const rows = [
      ["requests/s", written(rate, 1)],
      ["tokens/s", written(each("tokens"), 0)],
      ["mean latency", finished > 0 ? `${(1000 * (now.seconds - last.seconds) / finished).toFixed(1)} ms` : "–"],
      ["queue", `${now.queue}`],
      ["failures", `${now.failures}`],
      ["requests", `${now.requests}`],
    ];
    $("live").replaceChildren(...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
    if (rate !== null) {
      rates.push(rate);
      if (rates.length > 60) rates.shift();
      const highest = Math.max(...rates);
      const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      const [right, height] = [240, 56 / Math.max(1, highest)];
      const point = (r, i) => `${right - 4 * (rates.length - 1 - i)},${(58 - height * r).toFixed(1)}`;
      line.setAttribute("points", rates.map(point).join(" "));
      $("chart").replaceChildren(line);
      $("chart").setAttribute("aria-label", `Requests a second: now ${rate.toFixed(1)}, at most ${highest.toFixed(1)}`);
      $("highest").textContent = `; at most ${highest.toFixed(1)}`;
    }
    if (!last || gone) health(true, ready);
    gone = false;
    last = now;
  } catch (fault) {
    gone = !fault.status;
    if (gone) health(false, fault.message);
    $("live").replaceChildren(el("dt", {}, "metrics"), el("dd", {}, "not available"));
  }
}

/** What the top of the page says when all is well. */
let ready = "ready";
let gone = false;

function health(good, text) {
  $("health").textContent = text;
  $("health").className = good ? "good" : "bad";
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Waits until the server is ready and, where it asks for a key, has got one. Then what it has is shown. */
async function start() {
  for (;;) {
    try {
      const response = await fetch(new URL("health", base));
      if (response.ok) break;
      health(false, faultOf(response.status, await response.text()));
    } catch {
      health(false, "The server cannot be reached.");
    }
    await pause(1000);
  }
  for (;;) {
    try {
      ({ data: models } = await ask("v1/models"));
      break;
    } catch (fault) {
      health(false, fault.message);
      if (fault.status === 401) await new Promise((resolve) => { keyed = resolve; });
      else await pause(1000);
    }
  }
  $("models").replaceChildren(...models.map((model) =>
    el("li", {}, model.id, el("small", {}, (model.tasks ?? []).join(", ")),
      model.max_model_len ? el("small", {}, `up to ${model.max_model_len} tokens`) : "")));
  health(true, ready);
  tabs();
  ask("info").then((info) => {
    ready = ["ready", info.version, info.model_dtype].filter(Boolean).join(" · ");
    health(true, ready);
  }).catch(() => {});
  await watch();
  setInterval(() => { if (!document.hidden) watch(); }, 2000);
}

let keyed = () => {};
$("key").onsubmit = (event) => {
  event.preventDefault();
  key = $("key-value").value;
  $("key").hidden = true;
  $("error").hidden = true;
  keyed();
};

start();
