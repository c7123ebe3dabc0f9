"""The real OpenAI SDK for Python against a running pointsman with simulated providers.

Run by tests/integration/sdk.rs, which sets BASE_URL (with /v1) and API_KEY.
"""

import asyncio
import json
import os
import unittest

import openai
from pydantic import BaseModel

BASE_URL = os.environ["BASE_URL"]
API_KEY = os.environ["API_KEY"]
HELLO = [{"role": "user", "content": "How many legs does a heron have?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def client(key=API_KEY):
    return openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=0)


class Chat(unittest.TestCase):
    def test_whole_answer_with_its_decision(self):
        raw = client().chat.completions.with_raw_response.create(model="auto", messages=HELLO)
        answer = raw.parse()
        self.assertEqual(answer.object, "chat.completion")
        self.assertIn("simulated answer", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertGreater(answer.usage.model_extra["cost"], 0)
        self.assertEqual(answer.model, raw.headers["x-router-model"])
        self.assertGreater(float(raw.headers["x-router-propensity"]), 0)
        self.assertTrue(raw.headers["x-router-decision-id"])
        self.assertTrue(raw.headers["x-request-id"])

    def test_a_named_model_serves(self):
        answer = client().chat.completions.create(model="sim-mistral/mistral-large-2512", messages=HELLO)
        self.assertEqual(answer.model, "sim-mistral/mistral-large-2512")

    def test_stream_ends_with_usage_and_cost(self):
        chunks = list(
            client().chat.completions.create(
                model="auto", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertIn("simulated answer", text)
        finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        self.assertEqual(finishes[-1], "stop")
        self.assertEqual({chunk.id for chunk in chunks}, {chunks[0].id})
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)
        self.assertGreater(chunks[-1].usage.model_extra["cost"], 0)

    def test_the_stream_helper_accumulates(self):
        with client().chat.completions.stream(model="auto", messages=HELLO) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion()
        self.assertIn("content.delta", kinds)
        self.assertIn("simulated answer", final.choices[0].message.content)

    def test_async_requests_run_side_by_side(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0) as api:
                asked = [api.chat.completions.create(model="auto", messages=HELLO) for _ in range(8)]
                return await asyncio.gather(*asked)

        self.assertEqual(len({answer.id for answer in asyncio.run(run())}), 8)


class Tools(unittest.TestCase):
    def test_a_tool_is_called_and_its_result_answered(self):
        first = client().chat.completions.create(model="auto", messages=HELLO, tools=[WEATHER])
        message = first.choices[0].message
        self.assertEqual(first.choices[0].finish_reason, "tool_calls")
        call = message.tool_calls[0]
        self.assertEqual(call.function.name, "get_weather")
        self.assertEqual(json.loads(call.function.arguments)["unit"], "celsius")
        result = {"role": "tool", "tool_call_id": call.id, "content": "4 degrees"}
        turns = HELLO + [message.model_dump(exclude_none=True), result]
        second = client().chat.completions.create(model="auto", messages=turns, tools=[WEATHER])
        self.assertEqual(second.choices[0].finish_reason, "stop")

    def test_a_streamed_call_is_put_together(self):
        with client().chat.completions.stream(model="auto", messages=HELLO, tools=[WEATHER]) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        call = final.choices[0].message.tool_calls[0]
        self.assertEqual(set(json.loads(call.function.arguments)), {"city", "unit"})
        self.assertTrue(call.id)


class Structured(unittest.TestCase):
    def test_an_answer_is_parsed_into_a_class(self):
        class Person(BaseModel):
            name: str
            age: int
            tags: list[str]

        answer = client().chat.completions.parse(model="auto", messages=HELLO, response_format=Person)
        self.assertIsInstance(answer.choices[0].message.parsed, Person)


class Responses(unittest.TestCase):
    TOOL = {"type": "function", "strict": True, **WEATHER["function"]}

    def test_whole_answer(self):
        answer = client().responses.create(model="auto", input="How many legs does a heron have?", instructions="Brief.")
        self.assertEqual((answer.object, answer.status), ("response", "completed"))
        self.assertIn("simulated answer", answer.output_text)
        self.assertGreater(answer.usage.total_tokens, 0)
        self.assertGreater(answer.usage.model_extra["cost"], 0)

    def test_a_stream_is_put_together(self):
        with client().responses.stream(model="auto", input=HELLO) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertEqual((kinds[0], kinds[-1]), ("response.created", "response.completed"))
        self.assertIn("simulated answer", final.output_text)

    def test_a_tool_is_called_and_its_result_answered(self):
        first = client().responses.create(model="auto", input=HELLO, tools=[self.TOOL])
        call = next(item for item in first.output if item.type == "function_call")
        self.assertEqual(json.loads(call.arguments)["unit"], "celsius")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "4 degrees"}
        turns = HELLO + [item.model_dump(exclude_none=True) for item in first.output] + [result]
        second = client().responses.create(model="auto", input=turns, tools=[self.TOOL])
        self.assertTrue(second.output_text)

    def test_an_answer_is_parsed_into_a_class(self):
        class Person(BaseModel):
            name: str
            age: int

        answer = client().responses.parse(model="auto", input=HELLO, text_format=Person)
        self.assertIsInstance(answer.output_parsed, Person)

    def test_what_is_not_kept_is_refused(self):
        with self.assertRaises(openai.BadRequestError):
            client().responses.create(model="auto", input="x", previous_response_id="resp_1")


class Embeddings(unittest.TestCase):
    def test_texts_are_embedded(self):
        answer = client().embeddings.create(model="sim-meta/vectors", input=["a green hill", "a green field"])
        self.assertEqual([item.index for item in answer.data], [0, 1])
        self.assertEqual(len(answer.data[0].embedding), 64)
        self.assertAlmostEqual(sum(x * x for x in answer.data[0].embedding), 1.0, places=3)
        self.assertGreater(answer.usage.prompt_tokens, 0)


class Routing(unittest.TestCase):
    def test_extras_are_taken_in_the_body(self):
        answer = client().chat.completions.create(
            model="auto",
            messages=HELLO,
            user="u-1",
            metadata={"team": "a"},
            extra_body={"routing": {"max_cost_usd": 1.0, "deadline_ms": 30000}, "session_id": "s-1"},
        )
        self.assertTrue(answer.choices)

    def test_models_lists_the_route_and_the_arms(self):
        ids = {model.id for model in client().models.list()}
        self.assertLessEqual({"auto", "sim-meta/llama-3.1-8b", "sim-google/gemini-2.5-pro"}, ids)

    def test_feedback_is_recorded_once(self):
        api = client()
        answer = api.chat.completions.create(model="auto", messages=HELLO)
        score = {"id": answer.id, "metric": "quality", "score": 0.8, "rater": "user:42"}
        first = api.post("/feedback", cast_to=object, body=score)
        again = api.post("/feedback", cast_to=object, body=score)
        self.assertEqual((first["recorded"], first["duplicate"]), (True, False))
        self.assertTrue(again["duplicate"])
        revised = api.post("/feedback", cast_to=object, body={**score, "score": 0.1})
        self.assertTrue(revised["revised"])


class Errors(unittest.TestCase):
    def test_a_wrong_key(self):
        with self.assertRaises(openai.AuthenticationError) as caught:
            client("wrong").chat.completions.create(model="auto", messages=HELLO)
        self.assertEqual(caught.exception.body["metadata"]["error_type"], "authentication")

    def test_an_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            client().chat.completions.create(model="no-such-model", messages=HELLO)
        self.assertIn("no-such-model", str(caught.exception))

    def test_an_unknown_routing_key(self):
        with self.assertRaises(openai.BadRequestError):
            client().chat.completions.create(model="auto", messages=HELLO, extra_body={"routing": {"qualty": 1}})

    def test_no_messages(self):
        with self.assertRaises(openai.BadRequestError):
            client().chat.completions.create(model="auto", messages=[])

    def test_feedback_for_an_id_never_issued(self):
        with self.assertRaises(openai.NotFoundError):
            client().post("/feedback", cast_to=object, body={"id": "chatcmpl-unknown", "metric": "quality", "score": 1})

    def test_a_score_out_of_range(self):
        api = client()
        answer = api.chat.completions.create(model="auto", messages=HELLO)
        with self.assertRaises(openai.BadRequestError):
            api.post("/feedback", cast_to=object, body={"id": answer.id, "metric": "quality", "score": 1.5})


if __name__ == "__main__":
    unittest.main()
