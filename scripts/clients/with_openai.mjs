// The openai SDK of JavaScript. It decodes base64 whatever it asked for.

import OpenAI from "openai";
import { QUERY, TEXTS, URL_OF_ALL, check, continuation, equal, f32, vectors } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL_OF_ALL}/v1`, apiKey: "none", maxRetries: 0 });

await check("openai", "embeddings of a list", async () => {
  const answer = await client.embeddings.create({ model: "nano-encoder", input: TEXTS });
  equal(answer.data.map((datum) => f32(datum.embedding)), vectors(TEXTS));
});
await check("openai", "completions", async () => {
  const answer = await client.completions.create({ model: "nano-decoder", prompt: QUERY, max_tokens: 12, temperature: 0 });
  equal(answer.choices[0].text, continuation(QUERY, 12));
});
await check("openai", "completions as a stream", async () => {
  let text = "";
  const body = { model: "nano-decoder", prompt: QUERY, max_tokens: 12, temperature: 0, stream: true };
  for await (const chunk of await client.completions.create(body)) text += chunk.choices[0]?.text ?? "";
  equal(text, continuation(QUERY, 12));
});
await check("openai", "errors are read", async () => {
  const error = await client.embeddings.create({ model: "nano-encoder", input: [] }).then(() => null, (error) => error);
  equal([error?.status, typeof error?.error?.message], [400, "string"]);
});
