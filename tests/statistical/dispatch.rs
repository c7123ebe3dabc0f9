//! Circuits and hedges under simulated time: scenarios as data, each with the range that is accepted and why.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test's helpers fail the test and show what they saw"
)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use pointsman::arm::{Arm, ArmId, Modalities};
use pointsman::clock;
use pointsman::completion::{Chunk, Completion, FinishReason, StreamEvent, Usage, Written};
use pointsman::dispatch::{
    Answer, AttemptRecord, Books, Deployment, DispatchRules, Dispatcher, HedgeRule, LatencyOracle,
    LatencyQuestion, Outcome, Plan, PlannedArm, Role,
};
use pointsman::failure::AttemptError;
use pointsman::providers::{Call, EventStream, Upstream};
use pointsman::telemetry::circuit::{Admission, Circuit, CircuitRules, CircuitState};
use pointsman::telemetry::{Ending, InputSize, Question, Sample, SeriesKey, Telemetry};
use pointsman::units::{UnixMs, Usd};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::value::RawValue;

/// One provider under steady load; another takes what its circuit refuses.
struct Weather {
    name: &'static str,
    calls_per_second: f64,
    minutes: u64,
    /// Share of calls that fail at a time in seconds.
    failing: fn(f64) -> f64,
    /// How often the circuit opens, and why that range.
    opens: (u32, u32),
    /// Share of the calls that are sent.
    sent_share: (f64, f64),
    /// Most calls that fail.
    failures: u32,
}

/// Every scenario is run with this many seeds, and all must be in range: the ranges are at least four standard
/// deviations wide where they come from a random count, so that a false alarm of the whole table is rarer than 1 %.
const SEEDS: u64 = 20;

const WEATHERS: [Weather; 6] = [
    // At 1 % errors a window of 300 calls has 3 +- 1.7: the rate is never near 80 %. Two of the first five calls
    // fail with probability 0.001.
    Weather {
        name: "healthy",
        calls_per_second: 10.0,
        minutes: 60,
        failing: |_| 0.01,
        opens: (0, 1),
        sent_share: (0.97, 1.0),
        failures: 450,
    },
    // 10 % of 300 calls: 30 +- 5.2, and 60 are needed, so that a full window never trips. A window of five calls
    // does with two failures (probability 0.08), at the start and after each ramp: the rule is hasty when it knows
    // little, which costs a rest and a ramp of about 45 s.
    Weather {
        name: "rough but usable",
        calls_per_second: 10.0,
        minutes: 10,
        failing: |_| 0.10,
        opens: (0, 6),
        sent_share: (0.75, 1.0),
        failures: 720,
    },
    // Half of the calls fail: opens within a dozen calls, and each probe has an even chance to let a ramp begin,
    // which fails again. Rests grow, so that little is sent.
    Weather {
        name: "half dead",
        calls_per_second: 10.0,
        minutes: 30,
        failing: |_| 0.5,
        opens: (6, 60),
        sent_share: (0.0, 0.06),
        failures: 300,
    },
    // Five failures open it; then rests of 5-10, 10-20, 20-40, 40-80, 80-160, 150-300, ... s and one probe each.
    Weather {
        name: "dead for half an hour",
        calls_per_second: 10.0,
        minutes: 30,
        failing: |_| 1.0,
        opens: (9, 22),
        sent_share: (0.0, 0.002),
        failures: 30,
    },
    // A minute's outage: 5 failures and 2 to 4 probes; it is back at the first probe afterwards, at most one rest
    // of 80 s later, and fully so 30 s after that. Lost are the outage, up to 80 s, and 45 % of the ramp: 74 to 154
    // of 600 s.
    Weather {
        name: "a minute's outage",
        calls_per_second: 10.0,
        minutes: 10,
        failing: |at| if (60.0..120.0).contains(&at) { 1.0 } else { 0.0 },
        opens: (3, 6),
        sent_share: (0.73, 0.89),
        failures: 12,
    },
    // One call every ten seconds on average: a window holds five or more with probability 0.18, and then two
    // failures are enough. The rule knows no confidence; it costs 7 % of the calls here. Counted 111; a count's
    // standard deviation is about 10.
    Weather {
        name: "quiet and rough",
        calls_per_second: 0.1,
        minutes: 600,
        failing: |_| 0.2,
        opens: (65, 160),
        sent_share: (0.88, 0.97),
        failures: 900,
    },
];

#[test]
fn circuits_open_when_they_should_and_come_back() {
    for weather in &WEATHERS {
        for seed in 0..SEEDS {
            let run = sail(weather, seed);
            let name = weather.name;
            println!("{name}, seed {seed}: {run:?}");
            assert!(
                (weather.opens.0..=weather.opens.1).contains(&run.opens),
                "{name}, seed {seed}: {run:?}"
            );
            let share = f64::from(run.sent) / f64::from(run.calls);
            assert!(
                (weather.sent_share.0..=weather.sent_share.1).contains(&share),
                "{name}, seed {seed}: {share} {run:?}"
            );
            assert!(run.failures <= weather.failures, "{name}, seed {seed}: {run:?}");
            let healthy_again = (weather.failing)(weather.minutes as f64 * 60.0) < 0.01;
            assert!(
                !healthy_again || run.closed_at_end,
                "{name}, seed {seed}: {run:?}"
            );
        }
    }
}

#[derive(Debug, Default)]
struct Run {
    calls: u32,
    sent: u32,
    failures: u32,
    opens: u32,
    closed_at_end: bool,
}

fn sail(weather: &Weather, seed: u64) -> Run {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let start = clock::monotonic();
    let mut circuit = Circuit::new(CircuitRules::default());
    let mut run = Run::default();
    let mut at = 0.0;
    while at < weather.minutes as f64 * 60.0 {
        // Poisson arrivals.
        at += -(1.0 - rng.r#gen::<f64>()).ln() / weather.calls_per_second;
        let now = start + Duration::from_secs_f64(at);
        run.calls += 1;
        if matches!(circuit.admit(now, rng.r#gen()), Admission::Refused) {
            continue;
        }
        run.sent += 1;
        if rng.gen_bool((weather.failing)(at)) {
            run.failures += 1;
            run.opens += u32::from(circuit.failed(now, now, rng.r#gen()).is_some());
        } else {
            circuit.succeeded(now, now);
        }
    }
    run.closed_at_end = circuit.state(start + Duration::from_secs_f64(at)) == CircuitState::Closed;
    run
}

/// A primary that stalls, a fallback that does not.
struct Stalls {
    name: &'static str,
    /// Share of the primary's answers that begin only after ten seconds.
    share: f64,
    hedge: HedgeRule,
    /// Hedges per request.
    hedges: (f64, f64),
    /// The 99th percentile of the time to first token, in seconds.
    p99: (f64, f64),
    /// Tokens beyond those of the same requests without hedging, as a share.
    extra: (f64, f64),
}

const REQUESTS: usize = 4000;
/// Requests before the figures are taken: the latency is not known yet.
const WARM_UP: usize = 400;
const OFF: HedgeRule = HedgeRule {
    enabled: false,
    asked: false,
    max_rate: 0.05,
};
const FIVE_PERCENT: HedgeRule = HedgeRule {
    enabled: true,
    asked: false,
    max_rate: 0.05,
};

const STALLS: [Stalls; 4] = [
    // 5 % stall, so that the 99th percentile is a stall.
    Stalls {
        name: "stalls, no hedge",
        share: 0.05,
        hedge: OFF,
        hedges: (0.0, 0.0),
        p99: (10.0, 10.5),
        extra: (0.0, 0.0),
    },
    // The delay is at most 1.5 times the 90th percentile of all (0.37 s, the 95th of the healthy), four of five
    // hedges begin within 0.31 s. As many stalls as the budget allows: in the long run a few of them, less than 1 %
    // of all requests, find the bucket empty.
    Stalls {
        name: "stalls, hedged",
        share: 0.05,
        hedge: FIVE_PERCENT,
        hedges: (0.035, 0.052),
        p99: (0.5, 1.0),
        extra: (0.0, 0.05),
    },
    // Healthy: only the slowest answers are hedged, and the budget is never exceeded.
    Stalls {
        name: "healthy, hedged",
        share: 0.0,
        hedge: FIVE_PERCENT,
        hedges: (0.005, 0.052),
        p99: (0.3, 0.8),
        extra: (0.0, 0.05),
    },
    // A sick provider: the hedges use their budget up and stay within it; the rest is the router's work.
    Stalls {
        name: "a third of it stalls",
        share: 0.33,
        hedge: FIVE_PERCENT,
        hedges: (0.045, 0.052),
        p99: (10.0, 10.5),
        extra: (0.0, 0.05),
    },
];

#[tokio::test(start_paused = true)]
async fn hedging_cuts_the_tail_within_its_budget() {
    let mut p99s = Vec::new();
    for stalls in &STALLS {
        let seen = hedge(stalls, 11).await;
        println!("{}: {seen:?}", stalls.name);
        let within = |value: f64, range: (f64, f64), what: &str| {
            assert!(
                (range.0..=range.1).contains(&value),
                "{}: {what} {value}",
                stalls.name
            );
        };
        within(seen.hedges, stalls.hedges, "hedges per request");
        within(seen.p99, stalls.p99, "p99 in seconds");
        within(seen.extra, stalls.extra, "extra tokens");
        p99s.push(seen.p99);
    }
    assert!(
        p99s[0] >= 10.0 * p99s[1],
        "hedging must cut the p99 to a tenth: {p99s:?}"
    );
}

#[derive(Debug)]
struct Seen {
    hedges: f64,
    p99: f64,
    extra: f64,
}

async fn hedge(stalls: &Stalls, seed: u64) -> Seen {
    let books = Arc::new(Journal::new());
    let dispatcher = Dispatcher::new(DispatchRules::default(), books.clone(), books.clone());
    let primary = Arc::new(Sampled::new(seed, stalls.share));
    let fallback = Arc::new(Sampled::new(seed + 1, 0.0));
    let candidates: Vec<PlannedArm> = [("primary", primary), ("fallback", fallback)]
        .into_iter()
        .map(|(name, upstream)| planned(name, upstream))
        .collect();
    // Two a second, so that a window holds 7200 and stalled requests overlap with others.
    let mut running = VecDeque::new();
    let mut ttfts = Vec::new();
    for number in 0..REQUESTS {
        tokio::time::sleep(Duration::from_millis(500)).await;
        books.publish();
        let (dispatcher, plan) = (dispatcher.clone(), plan(number, candidates.clone(), stalls.hedge));
        running.push_back(tokio::spawn(first_token(dispatcher, plan)));
    }
    for (number, request) in running.into_iter().enumerate() {
        let ttft = request.await.unwrap();
        if number >= WARM_UP {
            ttfts.push(ttft.as_secs_f64());
        }
    }
    ttfts.sort_by(f64::total_cmp);
    let records = books.records.lock().unwrap();
    let tokens = |record: &AttemptRecord| {
        let usage = record.usage.unwrap();
        (usage.input + usage.output) as f64
    };
    let wasted: f64 = records
        .iter()
        .filter(|record| matches!(record.outcome, Outcome::Cancelled(_)))
        .map(tokens)
        .sum();
    let all: f64 = records.iter().map(tokens).sum();
    let hedges = records.iter().filter(|record| record.role == Role::Hedge).count();
    Seen {
        hedges: hedges as f64 / REQUESTS as f64,
        p99: ttfts[ttfts.len() * 99 / 100],
        extra: wasted / (all - wasted),
    }
}

async fn first_token(dispatcher: Dispatcher, plan: Plan) -> Duration {
    let start: Instant = clock::monotonic();
    let Answer::Stream(_, mut events) = dispatcher.run(plan).await.unwrap() else {
        panic!("a stream")
    };
    let ttft = clock::monotonic() - start;
    while let Some(event) = events.next().await {
        event.unwrap();
    }
    ttft
}

fn planned(name: &str, upstream: Arc<Sampled>) -> PlannedArm {
    let arm = Arm {
        id: ArmId::new(&format!("{name}/m")),
        upstream: Arc::from("m"),
        family: Arc::from("m"),
        context_window: 8192,
        max_output_tokens: 1024,
        modalities: Modalities::TEXT,
        tools: true,
        structured_output: true,
    };
    PlannedArm {
        arm: Arc::new(arm),
        deployments: vec![Arc::new(Deployment::new(name, upstream))],
        expected_cost: Usd::ZERO,
    }
}

fn plan(number: usize, candidates: Vec<PlannedArm>, hedge: HedgeRule) -> Plan {
    let body = r#"{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "hello"}]}"#;
    Plan {
        decision_id: Arc::from(number.to_string()),
        request: Arc::new(pointsman::request::parse(body.into()).unwrap()),
        candidates,
        fixed: 1,
        deadline: clock::monotonic() + Duration::from_secs(60),
        stream_deadline: clock::monotonic() + Duration::from_secs(60),
        ttft_budget: None,
        hedge,
        max_cost: None,
        max_attempts: None,
        input_tokens: 100,
        history: None,
    }
}

/// Answers of 100 tokens in two seconds; the first token comes log-normally (median 0.25 s, sigma 0.25: a 90th
/// percentile of 0.34 s, a 99th of 0.45 s) or, with the probability of a stall, after ten seconds.
struct Sampled {
    rng: Mutex<ChaCha8Rng>,
    stall: f64,
}

impl Sampled {
    fn new(seed: u64, stall: f64) -> Self {
        Self {
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            stall,
        }
    }

    fn ttft(&self) -> Duration {
        let mut rng = self.rng.lock().unwrap();
        if rng.gen_bool(self.stall) {
            return Duration::from_secs(10);
        }
        // Box and Muller.
        let (u, v): (f64, f64) = (1.0 - rng.r#gen::<f64>(), rng.r#gen());
        let normal = (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos();
        Duration::from_secs_f64(0.25 * (0.25 * normal).exp())
    }
}

impl Upstream for Sampled {
    fn complete<'a>(&'a self, _: &'a Call) -> BoxFuture<'a, Result<Completion, AttemptError>> {
        panic!("only streams are asked for")
    }

    fn stream<'a>(&'a self, _: &'a Call) -> BoxFuture<'a, Result<EventStream, AttemptError>> {
        let ttft = self.ttft();
        let choices = r#"[{"index": 0, "delta": {"content": "hello"}}]"#;
        let word = Chunk {
            choices: RawValue::from_string(choices.to_owned()).unwrap(),
            extra: Vec::new(),
            meaningful: true,
            written: Written {
                text: 5,
                ..Written::default()
            },
            usage: None,
        };
        let end = StreamEvent::End {
            finish: FinishReason::Stop,
            usage: Some(Usage {
                input: 100,
                output: 100,
                ..Usage::default()
            }),
            usage_extra: None,
        };
        let timed = [(ttft, StreamEvent::Chunk(word)), (Duration::from_secs(2), end)];
        let events = stream::iter(timed).then(|(wait, event)| async move {
            tokio::time::sleep(wait).await;
            Ok(event)
        });
        Box::pin(std::future::ready(Ok(Box::pin(events) as EventStream)))
    }
}

/// Keeps the records and learns the latency from them, as the program does.
struct Journal {
    start: Instant,
    records: Mutex<Vec<AttemptRecord>>,
    telemetry: Telemetry,
}

impl Journal {
    fn new() -> Self {
        Self {
            start: clock::monotonic(),
            records: Mutex::default(),
            telemetry: Telemetry::default(),
        }
    }

    fn now(&self) -> UnixMs {
        UnixMs(1_700_000_000_000).plus(clock::monotonic() - self.start)
    }

    fn publish(&self) {
        self.telemetry.publish(self.now());
    }
}

impl Books for Journal {
    fn attempt(&self, record: AttemptRecord) {
        let ending = match &record.outcome {
            Outcome::Succeeded => Ending::Succeeded,
            Outcome::Failed(error) => Ending::Failed(error.kind),
            Outcome::Cancelled(_) => Ending::LostHedge,
        };
        let key = SeriesKey::new(
            record.provider.clone(),
            record.arm.id.clone(),
            record.stream,
            record.input_tokens_estimate,
        );
        let sample = Sample {
            key,
            ending,
            ttft: record.ttft,
            total: record.total,
            output_tokens: Some(100),
        };
        self.telemetry.record(self.now(), &sample);
        self.records.lock().unwrap().push(record);
    }
}

impl LatencyOracle for Journal {
    fn quantile(&self, question: &LatencyQuestion<'_>, q: f64) -> Option<Duration> {
        let view = self.telemetry.view();
        let asked = Question {
            arm: question.arm,
            provider: Some(question.provider),
            stream: question.stream,
            size: InputSize::of(question.input_tokens),
        };
        let quantile = view.wait(&asked, q).filter(|quantile| !quantile.at_least)?;
        Some(Duration::from_secs_f64(quantile.value_ms / 1e3))
    }
}
