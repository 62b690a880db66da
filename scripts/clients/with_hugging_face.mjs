// @huggingface/inference with an address. All but generation goes to `/`.

import { InferenceClient } from "@huggingface/inference";
import { ETTIN_MODELS, OF_ONE_TASK, QUERY, TEXTS, URL_OF_ALL, check, continuation, equal, ettin, f32, vectors } from "./checks.mjs";

const at = (url) => new InferenceClient("none", { endpointUrl: url });
const rows = (list, ...keys) => list.map((one) => keys.map((key) => (typeof one[key] === "number" ? Math.fround(one[key]) : one[key])));
const model = (name) => `${ETTIN_MODELS}/${name}`;
const name = "@huggingface/inference";

await check(name, "featureExtraction", async () => {
  const answer = await at(URL_OF_ALL).featureExtraction({ inputs: TEXTS });
  equal(answer.map(f32), vectors(TEXTS));
});
await check(name, "sentenceSimilarity", async () => {
  const [source_sentence, ...sentences] = TEXTS;
  const answer = await at(URL_OF_ALL).sentenceSimilarity({ inputs: { source_sentence, sentences } });
  const expected = ettin("similarity", "-m", "nano-encoder", ...TEXTS);
  equal(answer.map((score) => score.toFixed(5)), expected.map((one) => one.score.toFixed(5)));
});
await check(name, "fillMask", async () => {
  const text = "The capital of France is [MASK].";
  const answer = await at(URL_OF_ALL).fillMask({ inputs: text, parameters: { top_k: 3 } });
  equal(rows(answer, "token", "score"), rows(ettin("fill-mask", "-m", "nano-encoder", "--top-k", "3", text)[0], "token", "score"));
});
await check(name, "textClassification", async () => {
  const answer = await at(OF_ONE_TASK.classify).textClassification({ inputs: TEXTS[0], parameters: {} });
  const [expected] = ettin("classify", "-m", model("tiny-text-classify-single"), TEXTS[0]);
  equal(rows(answer, "label", "score"), rows(expected, "label", "score"));
});
await check(name, "tokenClassification", async () => {
  const answer = await at(OF_ONE_TASK.tag).tokenClassification({ inputs: TEXTS[0], parameters: { aggregation_strategy: "simple" } });
  const [expected] = ettin("tag", "-m", model("tiny-text-tag"), "--aggregation", "simple", TEXTS[0]);
  equal(rows(answer, "entity_group", "start", "end"), rows(expected, "entity_group", "start", "end"));
});
await check(name, "questionAnswering", async () => {
  const inputs = { question: "Where was Ada born?", context: "Ada Lovelace was born in London in 1815." };
  const answer = await at(OF_ONE_TASK.answer).questionAnswering({ inputs });
  const [expected] = ettin("answer", "-m", model("tiny-text-answer"), inputs.question, inputs.context);
  equal([answer].flat()[0].answer, expected.answer);
});
await check(name, "textGeneration", async () => {
  const answer = await at(OF_ONE_TASK.generate).textGeneration({ inputs: QUERY, parameters: { max_new_tokens: 12, do_sample: false } });
  equal(answer.generated_text.replace(QUERY, ""), continuation(QUERY, 12));
});
