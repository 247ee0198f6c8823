// The OpenAI SDK for Node against the gateway; prints one JSON object for the test to look at.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "sk-client", maxRetries: 0 });
const messages = (text) => [{ role: "user", content: text }];
const seen = {};

const plain = await client.chat.completions.create({ model: "gpt-4o-mini", messages: messages("hello") });
seen.plain = plain.choices[0].message.content;

const stream = await client.chat.completions.create({ model: "claude", messages: messages("greet in scripts"), stream: true });
seen.streamed = "";
for await (const chunk of stream) seen.streamed += chunk.choices[0]?.delta?.content ?? "";

const runner = client.chat.completions.stream({
  model: "gpt-4o-mini",
  messages: messages("weather"),
  tools: [{ type: "function", function: { name: "get_weather", parameters: { type: "object" } } }],
});
const final = await runner.finalChatCompletion();
seen.tools = final.choices[0].message.tool_calls.map((call) => call.function.name);

// As floats: the stand-in ignores the SDK's default, base64.
const wanted = { model: "text-embedding-3-small", input: "embed me", encoding_format: "float" };
const vector = await client.embeddings.create(wanted);
seen.embedding = vector.data[0].embedding;

seen.models = (await client.models.list()).data.map((model) => model.id);

try {
  await client.chat.completions.create({ model: "gpt-4o-mini", messages: messages("rate limited") });
} catch (error) {
  seen.error = [error.constructor.name, error.status, error.code];
}

const controller = new AbortController();
const aborted = await client.chat.completions.create(
  { model: "gpt-4o-mini", messages: messages("take your time"), stream: true },
  { signal: controller.signal },
);
// In the middle: where the whole answer has arrived before, Node 20's fetch does not settle, whoever serves it.
let chunks = 0;
for await (const _ of aborted) {
  chunks += 1;
  controller.abort();
}
seen.aborted = chunks;

console.log(JSON.stringify(seen));
