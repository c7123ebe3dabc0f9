use proptest::prelude::*;

use super::*;
use crate::pricing::{Weekdays, WindowError};
use crate::units::UsdPerMtok;
use jiff::tz::TimeZone;

fn per_mtok(dollars: f64) -> Option<UsdPerMtok> {
    UsdPerMtok::from_dollars(dollars)
}

fn rates(input: f64, cached: f64, output: f64) -> PartialRates {
    PartialRates {
        input: per_mtok(input),
        cached_input: per_mtok(cached),
        output: per_mtok(output),
        ..PartialRates::default()
    }
}

fn price(spec: PriceSpec) -> Price {
    Price::new(spec).unwrap()
}

fn flat(rates: PartialRates) -> Price {
    price(PriceSpec {
        rates,
        ..PriceSpec::default()
    })
}

fn cost(price: &Price, usage: Usage) -> Usd {
    price.at(UnixMs(0)).cost(&usage, &Units::default())
}

/// Claude Opus 4 at $15/$75 (read 0.1x, five-minute write 1.25x, one-hour write 2x): 188,086 read from the cache, 456 written for five
/// minutes and 100 for an hour, 2,048 plain and 503 out; the sum worked by hand.
#[test]
fn cache_reads_and_both_writes_have_their_own_prices() {
    let opus = flat(PartialRates {
        cache_write_5m: per_mtok(18.75),
        cache_write_1h: per_mtok(30.0),
        ..rates(15.0, 1.5, 75.0)
    });
    let usage = Usage {
        input: 188_086 + 456 + 100 + 2_048,
        cached_input: 188_086,
        cache_write_5m: 456,
        cache_write_1h: 100,
        output: 503,
        ..Usage::default()
    };
    // 282 129 + 8 550 + 3 000 + 30 720 + 37 725 micro-dollars.
    assert_eq!(cost(&opus, usage), Usd::from_nanos(362_124_000));
}

/// OpenAI counts cached tokens inside the prompt: gpt-4o at $2.50/$1.25/$10 with 2,006 in, 1,920 cached, 300 out.
#[test]
fn cached_tokens_are_billed_once() {
    let gpt4o = flat(rates(2.5, 1.25, 10.0));
    let usage = Usage {
        input: 2_006,
        cached_input: 1_920,
        output: 300,
        ..Usage::default()
    };
    // 86 * 2.5 + 1 920 * 1.25 + 300 * 10 = 215 + 2 400 + 3 000 micro-dollars.
    assert_eq!(cost(&gpt4o, usage), Usd::from_nanos(5_615_000));
}

#[test]
fn a_long_prompt_moves_every_token_to_its_tier() {
    let pro = price(PriceSpec {
        rates: rates(1.25, 0.125, 10.0),
        tiers: vec![TierSpec {
            above_tokens: 200_000,
            rates: rates(2.5, 0.25, 15.0),
        }],
        ..PriceSpec::default()
    });
    let usage = |input| Usage {
        input,
        output: 1_000,
        ..Usage::default()
    };
    assert_eq!(cost(&pro, usage(200_000)), Usd::from_nanos(260_000_000));
    // 200 001 * 2.5 + 1 000 * 15 micro-dollars.
    assert_eq!(cost(&pro, usage(200_001)), Usd::from_nanos(515_002_500));
}

/// Qwen-Plus: $1.20 a million, or $4 for everything it says once it thinks.
#[test]
fn an_answer_that_was_thought_about_may_cost_more_as_a_whole() {
    let thinks = |reasoning_prices_answer| {
        price(PriceSpec {
            rates: PartialRates {
                reasoning: per_mtok(4.0),
                ..rates(0.4, 0.08, 1.2)
            },
            reasoning_prices_answer,
            ..PriceSpec::default()
        })
    };
    let usage = |reasoning| Usage {
        output: 1_000,
        reasoning,
        ..Usage::default()
    };
    assert_eq!(cost(&thinks(true), usage(0)), Usd::from_nanos(1_200_000));
    assert_eq!(cost(&thinks(true), usage(300)), Usd::from_nanos(4_000_000));
    assert_eq!(cost(&thinks(false), usage(300)), Usd::from_nanos(2_040_000));
}

#[test]
fn what_a_tier_leaves_out_is_the_bases() {
    let tiered = price(PriceSpec {
        rates: rates(0.1, 0.01, 0.3),
        tiers: vec![TierSpec {
            above_tokens: 10,
            rates: PartialRates {
                input: per_mtok(0.2),
                ..PartialRates::default()
            },
        }],
        ..PriceSpec::default()
    });
    let long = tiered.rates(11);
    assert_eq!(Some(long.input), per_mtok(0.2));
    assert_eq!(Some(long.cached_input), per_mtok(0.01));
    assert_eq!(Some(long.output), per_mtok(0.3));
}

#[test]
fn window_and_routing_fee_multiply_before_the_one_rounding() {
    let all_day = Window::new(
        TimeZone::UTC,
        Weekdays::ALL,
        (0, 1440),
        Vec::new(),
        Multiplier::new(0.5).unwrap(),
    )
    .unwrap();
    let price = price(PriceSpec {
        rates: rates(0.3, 0.3, 1.2),
        windows: vec![all_day],
        routing_fee_percent: 5.5,
        ..PriceSpec::default()
    });
    let usage = Usage {
        input: 7,
        output: 3,
        ..Usage::default()
    };
    // (7 * 300 + 3 * 1 200) nano-dollars = 5 700; * 0.5 * 1.055 = 3 006.75.
    assert_eq!(cost(&price, usage), Usd::from_nanos(3_007));
}

#[test]
fn reasoning_and_audio_are_part_of_the_output() {
    let spoken = flat(PartialRates {
        reasoning: per_mtok(4.0),
        audio_output: per_mtok(20.0),
        audio_input: per_mtok(10.0),
        ..rates(1.0, 1.0, 2.0)
    });
    let usage = Usage {
        input: 100,
        audio_input: 60,
        output: 50,
        reasoning: 20,
        audio_output: 10,
        ..Usage::default()
    };
    // 40 * 1 + 60 * 10 + 20 * 2 + 20 * 4 + 10 * 20 = 960 micro-dollars.
    assert_eq!(cost(&spoken, usage), Usd::from_nanos(960_000));
}

#[test]
fn every_problem_of_a_price_is_told() {
    let window = |start, end| {
        Window::new(
            TimeZone::UTC,
            Weekdays::ALL,
            (start, end),
            Vec::new(),
            Multiplier::ONE,
        )
    };
    let problems = Price::new(PriceSpec {
        rates: PartialRates::default(),
        tiers: vec![TierSpec::default(), TierSpec::default()],
        windows: vec![window(0, 60).unwrap(), window(30, 90).unwrap()],
        fees: Fees {
            request: Usd::from_nanos(-1),
            ..Fees::default()
        },
        reasoning_prices_answer: false,
        routing_fee_percent: f64::NAN,
    })
    .unwrap_err();
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "input_per_mtok",
            "output_per_mtok",
            "request_fee_usd",
            "routing_fee_percent",
            "tiers[1].above_tokens",
            "windows[1]"
        ]
    );
    assert_eq!(window(0, 0).unwrap_err(), WindowError::Empty);
}

fn usages() -> impl Strategy<Value = Usage> {
    let tokens = 0u64..2_000_000;
    (
        [
            tokens.clone(),
            tokens.clone(),
            tokens.clone(),
            tokens.clone(),
            tokens.clone(),
        ],
        [tokens.clone(), tokens.clone(), tokens],
    )
        .prop_map(
            |([plain, cached, short, long, audio], [written, thought, spoken])| Usage {
                input: plain + cached + short + long + audio,
                cached_input: cached,
                cache_write_5m: short,
                cache_write_1h: long,
                audio_input: audio,
                output: written + thought + spoken,
                reasoning: thought,
                audio_output: spoken,
                estimated: false,
            },
        )
}

/// Rates of every class and dearer ones above 500,000 tokens.
fn prices() -> impl Strategy<Value = Price> {
    (proptest::array::uniform8(0u32..100_000), 0.0..100.0f64).prop_map(|(mills, fee)| {
        let build = |factor: f64| {
            let rate = |i: usize| per_mtok(f64::from(mills[i]) * factor / 1_000.0);
            PartialRates {
                input: rate(0),
                cached_input: rate(1),
                cache_write_5m: rate(2),
                cache_write_1h: rate(3),
                audio_input: rate(4),
                output: rate(5),
                reasoning: rate(6),
                audio_output: rate(7),
            }
        };
        price(PriceSpec {
            rates: build(1.0),
            tiers: vec![TierSpec {
                above_tokens: 500_000,
                rates: build(1.5),
            }],
            routing_fee_percent: fee,
            ..PriceSpec::default()
        })
    })
}

proptest! {
    #[test]
    fn more_tokens_of_any_class_never_cost_less(price in prices(), usage in usages(), more in 0u64..1_000_000) {
        let before = cost(&price, usage);
        prop_assert!(before >= Usd::ZERO);
        let grow: [fn(&mut Usage, u64); 8] = [
            |u, n| u.input += n,
            |u, n| { u.input += n; u.cached_input += n },
            |u, n| { u.input += n; u.cache_write_5m += n },
            |u, n| { u.input += n; u.cache_write_1h += n },
            |u, n| { u.input += n; u.audio_input += n },
            |u, n| u.output += n,
            |u, n| { u.output += n; u.reasoning += n },
            |u, n| { u.output += n; u.audio_output += n },
        ];
        for grow in grow {
            let mut larger = usage;
            grow(&mut larger, more);
            prop_assert!(cost(&price, larger) >= before);
        }
    }

    #[test]
    fn no_usage_however_odd_is_negative_or_panics(
        price in prices(),
        fields in proptest::array::uniform8(any::<u64>()),
    ) {
        let [input, cached_input, cache_write_5m, cache_write_1h, audio_input, output, reasoning, audio_output] = fields;
        let usage = Usage {
            input, cached_input, cache_write_5m, cache_write_1h, audio_input, output, reasoning, audio_output,
            estimated: false,
        };
        prop_assert!(cost(&price, usage) >= Usd::ZERO);
    }
}
