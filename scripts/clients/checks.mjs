// What the scripts of all clients share: as checks.py.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";

export const { ETTIN_URL: URL_OF_ALL, ETTIN_BINARY, ETTIN_MODELS } = process.env;
export const OF_ONE_TASK = JSON.parse(process.env.ETTIN_URLS);
export const TEXTS = ["A cat sits on the mat.", "Stocks fell sharply today, and nobody knew why.", "🙂"];
export const QUERY = "How do I bake bread?";

export const ettin = (...words) =>
  JSON.parse(execFileSync(ETTIN_BINARY, [...words, "--format", "json", "--quiet"], { stdio: ["ignore", "pipe", "inherit"] }));
export const f32 = (values) => [...Float32Array.from(values)];
export const vectors = (texts) =>
  ettin("embed", "-m", "nano-encoder", "--normalize", ...texts).map((row) => f32(row.embedding));
export const continuation = (prompt, tokens) =>
  ettin("generate", "-m", "nano-decoder", "--max-new-tokens", `${tokens}`, prompt)[0].text;

export function equal(got, expected) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
  if (a !== b) throw new Error(`got ${a?.slice(0, 300)}, expected ${b?.slice(0, 300)}`);
}

function versionOf(name) {
  // Not every package lets its package.json be imported by name.
  let folder = dirname(createRequire(import.meta.url).resolve(name));
  for (;;) {
    try {
      const manifest = JSON.parse(readFileSync(join(folder, "package.json")));
      if (manifest.name === name) return manifest.version;
    } catch {
      // Look further up.
    }
    folder = dirname(folder);
  }
}

export async function check(name, what, run) {
  const begun = performance.now();
  let [result, reason] = ["ok", ""];
  try {
    await run();
  } catch (error) {
    [result, reason] = ["FAILED", `${error}`.replace(/\s+/g, " ").slice(0, 400)];
    process.exitCode = 1;
  }
  console.log(`${name} ${versionOf(name)} (JS)\t${what}\t${result}\t${(performance.now() - begun).toFixed(0)} ms\t${reason}`);
}
