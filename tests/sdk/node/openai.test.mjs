// The real OpenAI SDK for Node against a running pointsman with simulated providers.
// Run by tests/integration/sdk.rs, which sets BASE_URL (with /v1), API_KEY and SDK_DIR.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";

const require = createRequire(join(process.env.SDK_DIR, "package.json"));
const OpenAI = require("openai");

const baseURL = process.env.BASE_URL;
const messages = [{ role: "user", content: "How many legs does a heron have?" }];
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

const client = (apiKey = process.env.API_KEY) => new OpenAI.OpenAI({ baseURL, apiKey, maxRetries: 0 });

test("a whole answer carries usage, cost and the decision", async () => {
  const { data, response } = await client().chat.completions.create({ model: "auto", messages }).withResponse();
  assert.match(data.choices[0].message.content, /simulated answer/);
  assert.equal(data.choices[0].finish_reason, "stop");
  assert.ok(data.usage.cost > 0);
  assert.equal(response.headers.get("x-router-model"), data.model);
  assert.ok(response.headers.get("x-router-decision-id"));
});

test("a stream ends with its usage", async () => {
  const stream = await client().chat.completions.create({
    model: "auto",
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let last;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    last = chunk;
  }
  assert.match(text, /simulated answer/);
  assert.ok(last.usage.completion_tokens > 0);
  assert.ok(last.usage.cost > 0);
});

test("the stream helper puts tool calls together", async () => {
  const runner = client().chat.completions.stream({ model: "auto", messages, tools });
  const final = await runner.finalChatCompletion();
  const call = final.choices[0].message.tool_calls[0];
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
});

test("a tool's result is answered", async () => {
  const first = await client().chat.completions.create({ model: "auto", messages, tools });
  const message = first.choices[0].message;
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "4 degrees" };
  const second = await client().chat.completions.create({ model: "auto", messages: [...messages, message, result], tools });
  assert.equal(second.choices[0].finish_reason, "stop");
});

test("an answer fits the schema asked for", async () => {
  const schema = { type: "object", properties: { n: { type: "integer" } }, required: ["n"], additionalProperties: false };
  const response_format = { type: "json_schema", json_schema: { name: "number", strict: true, schema } };
  const answer = await client().chat.completions.create({ model: "auto", messages, response_format });
  assert.equal(typeof JSON.parse(answer.choices[0].message.content).n, "number");
});

test("models are listed", async () => {
  const ids = [];
  for await (const model of client().models.list()) ids.push(model.id);
  assert.ok(ids.includes("auto") && ids.includes("sim-google/gemini-2.5-pro"), ids.join(", "));
});

test("feedback is recorded", async () => {
  const answer = await client().chat.completions.create({ model: "auto", messages });
  const body = { id: answer.id, metric: "quality", score: true, rater: "user:7" };
  const reply = await client().post("/feedback", { body });
  assert.equal(reply.recorded, true);
  assert.ok(reply.decision_id);
});

test("errors are typed", async () => {
  await assert.rejects(client("wrong").models.list(), OpenAI.AuthenticationError);
  const unknown = client().chat.completions.create({ model: "no-such-model", messages });
  await assert.rejects(unknown, OpenAI.NotFoundError);
  const empty = client().chat.completions.create({ model: "auto", messages: [] });
  await assert.rejects(empty, OpenAI.BadRequestError);
});

test("an aborted stream does not hurt the next request", async () => {
  const stream = await client().chat.completions.create({ model: "auto", messages, stream: true });
  for await (const _ of stream) {
    stream.controller.abort();
    break;
  }
  const next = await client().chat.completions.create({ model: "auto", messages });
  assert.equal(next.choices.length, 1);
});
