"""The real Anthropic SDK for Python against a running pointsman with simulated providers.

Run by tests/integration/sdk.rs, which sets BASE_URL (with /v1) and API_KEY.
"""

import os
import unittest

import anthropic

BASE_URL = os.environ["BASE_URL"].removesuffix("/v1")
API_KEY = os.environ["API_KEY"]
HELLO = [{"role": "user", "content": "How many legs does a heron have?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
        "required": ["city", "unit"],
    },
}


def client(key=API_KEY):
    return anthropic.Anthropic(base_url=BASE_URL, api_key=key, max_retries=0)


class Messages(unittest.TestCase):
    def test_whole_answer_with_its_decision(self):
        raw = client().messages.with_raw_response.create(
            model="auto", max_tokens=8000, messages=HELLO, system="Be brief.", metadata={"user_id": "u-1"}
        )
        answer = raw.parse()
        self.assertEqual((answer.type, answer.role, answer.stop_reason), ("message", "assistant", "end_turn"))
        self.assertIn("simulated answer", answer.content[0].text)
        self.assertGreater(answer.usage.input_tokens, 0)
        self.assertGreater(answer.usage.model_extra["cost"], 0)
        self.assertEqual(answer.model, raw.headers["x-router-model"])
        self.assertTrue(raw.headers["x-router-decision-id"])

    def test_a_stream_is_put_together(self):
        with client().messages.stream(model="auto", max_tokens=8000, messages=HELLO) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertIn("simulated answer", text)
        self.assertEqual(final.content[0].text, text)
        self.assertEqual(final.stop_reason, "end_turn")
        self.assertGreater(final.usage.output_tokens, 0)

    def test_the_limit_is_told(self):
        answer = client().messages.create(model="auto", max_tokens=3, messages=HELLO)
        self.assertEqual(answer.stop_reason, "max_tokens")

    def test_tokens_are_counted(self):
        count = client().messages.count_tokens(model="auto", messages=HELLO)
        self.assertGreater(count.input_tokens, 3)

    def test_extras_are_taken_in_the_body(self):
        answer = client().messages.create(
            model="auto", max_tokens=50, messages=HELLO, extra_body={"routing": {"max_cost_usd": 1.0}}
        )
        self.assertTrue(answer.content)


class Tools(unittest.TestCase):
    def test_a_tool_is_called_and_its_result_answered(self):
        first = client().messages.create(model="auto", max_tokens=8000, messages=HELLO, tools=[WEATHER])
        self.assertEqual(first.stop_reason, "tool_use")
        call = next(block for block in first.content if block.type == "tool_use")
        self.assertEqual((call.name, call.input["unit"]), ("get_weather", "celsius"))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "4 degrees"}
        turns = HELLO + [
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
            {"role": "user", "content": [result]},
        ]
        second = client().messages.create(model="auto", max_tokens=8000, messages=turns, tools=[WEATHER])
        self.assertEqual(second.stop_reason, "end_turn")

    def test_a_streamed_call_is_put_together(self):
        with client().messages.stream(model="auto", max_tokens=8000, messages=HELLO, tools=[WEATHER]) as stream:
            final = stream.get_final_message()
        call = next(block for block in final.content if block.type == "tool_use")
        self.assertEqual(set(call.input), {"city", "unit"})


class Errors(unittest.TestCase):
    def test_a_wrong_key(self):
        with self.assertRaises(anthropic.AuthenticationError) as caught:
            client("wrong").messages.create(model="auto", max_tokens=5, messages=HELLO)
        self.assertEqual(caught.exception.body["error"]["type"], "authentication_error")

    def test_an_unknown_model(self):
        with self.assertRaises(anthropic.NotFoundError) as caught:
            client().messages.create(model="no-such-model", max_tokens=5, messages=HELLO)
        self.assertIn("no-such-model", str(caught.exception))

    def test_a_tool_that_only_a_provider_could_run(self):
        with self.assertRaises(anthropic.BadRequestError):
            client().messages.create(
                model="auto", max_tokens=5, messages=HELLO, tools=[{"type": "web_search_20250305", "name": "web_search"}]
            )


if __name__ == "__main__":
    unittest.main()
