//! Many requests at once against providers with seeded random faults.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use pointsman::clock;
use pointsman::dispatch::{DispatchRules, HedgeRule, Outcome, Plan, PlannedArm};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Stage, http, plan, planned, read};
use crate::upstream::{Fault, INPUT_TOKENS, Upstream, Wire, full_answer};

const REQUESTS: usize = 20_000;
const AT_ONCE: usize = 96;
const SEED: u64 = 7;
const DEADLINE: Duration = Duration::from_secs(6);
const NAMES: [&str; 3] = ["first", "second", "third"];

/// What `name` does to a request: 12 % of all fail somehow, and the first provider is down for a while.
fn fault(name: &str, ask: &str) -> Fault {
    let number: usize = ask.trim_start_matches("ask-").parse().unwrap();
    if name == "first" && (REQUESTS / 4..REQUESTS / 3).contains(&number) {
        return Fault::Status(500, None);
    }
    weather(name, ask)
}

/// The weather apart from that outage.
pub fn weather(name: &str, ask: &str) -> Fault {
    let draw = xxh3_64_with_seed(format!("{name} {ask}").as_bytes(), SEED) % 1000;
    match draw {
        0..15 => Fault::Status(429, None),
        15..35 => Fault::Status(500, None),
        35..50 => Fault::Status(503, None),
        50..60 => Fault::Status(529, None),
        60..63 => Fault::HangBeforeHeaders,
        63..66 => Fault::HangAfterHeaders,
        66..80 => Fault::ErrorInside200,
        80..90 => Fault::GarbageJson,
        90..95 => Fault::ResetMidStream,
        95..100 => Fault::Truncated,
        100..105 => Fault::Oversized,
        105..115 => Fault::SlowFirstToken(1000),
        115..120 => Fault::Trickle(20),
        120..140 => Fault::DuplicateDone,
        _ => Fault::None,
    }
}

fn serves(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::None | Fault::DuplicateDone | Fault::Trickle(_) | Fault::SlowFirstToken(_)
    )
}

fn breaks(fault: Fault, stream: bool) -> bool {
    stream && matches!(fault, Fault::ResetMidStream | Fault::Truncated)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Answered,
    BrokeOff,
    Refused,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_requests_in_bad_weather() {
    let mut upstreams = Vec::new();
    for name in NAMES {
        upstreams.push(Upstream::scripted(name, Wire::OpenAi, move |_, ask| fault(name, ask)).await);
    }
    let http = http();
    let candidates: Vec<PlannedArm> = NAMES
        .iter()
        .zip(&upstreams)
        .map(|(name, upstream)| planned(name, upstream, &http))
        .collect();
    let stage = Arc::new(Stage::new(DispatchRules::default()));
    let idle_tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();

    let requests =
        stream::iter(0..REQUESTS).map(|number| tokio::spawn(one(stage.clone(), candidates.clone(), number)));
    let seen: Vec<Seen> = requests
        .buffer_unordered(AT_ONCE)
        .map(|seen| seen.unwrap())
        .collect()
        .await;
    let count = |what| seen.iter().filter(|seen| **seen == what).count();
    println!(
        "answered {}, broke off {}, refused {}",
        count(Seen::Answered),
        count(Seen::BrokeOff),
        count(Seen::Refused)
    );
    assert_eq!(seen.len(), REQUESTS);

    stage.dispatcher.idle().await;
    assert_eq!(stage.dispatcher.in_flight(), 0);
    check_bill(&stage, &upstreams).await;
    drop((candidates, http));
    settles(
        || upstreams.iter().map(Upstream::connections).sum::<usize>() == 0,
        "connections stay open",
    )
    .await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    settles(|| tasks() <= idle_tasks, "tasks are left over").await;
}

async fn one(stage: Arc<Stage>, candidates: Vec<PlannedArm>, number: usize) -> Seen {
    let ask = format!("ask-{number}");
    let is_stream = number.is_multiple_of(2);
    let faults = NAMES.map(|name| fault(name, &ask));
    let plan = Plan {
        ttft_budget: Some(Duration::from_millis(300)),
        hedge: HedgeRule::default(),
        ..plan(&ask, is_stream, candidates, DEADLINE)
    };
    let start = clock::monotonic();
    let answer = stage.dispatcher.run(plan).await;
    let seen = match answer {
        Ok(answer) => {
            let (served, text, failure) = read(answer).await;
            let full = full_answer(&served.provider, &ask);
            if failure.is_none() {
                assert_eq!(text, full, "a wrong or mixed answer");
                Seen::Answered
            } else {
                let place = NAMES.iter().position(|name| *name == &*served.provider).unwrap();
                assert!(
                    breaks(faults[place], is_stream),
                    "{ask}: {failure:?} {:?}",
                    faults[place]
                );
                assert!(full.starts_with(&text), "{text}");
                Seen::BrokeOff
            }
        }
        Err(failure) => {
            let alive: Vec<_> = faults.iter().filter(|fault| serves(**fault)).collect();
            assert!(
                alive.is_empty(),
                "{ask}: {failure} though {alive:?} could answer: {:?}",
                failure.tried
            );
            Seen::Refused
        }
    };
    let took = clock::monotonic() - start;
    assert!(
        took < DEADLINE + Duration::from_millis(500),
        "{ask} took {took:?}"
    );
    seen
}

/// What one provider and the log say of one request: attempts, input tokens, output tokens.
#[derive(Default)]
struct Account {
    logged: [u64; 3],
    billed: [u64; 3],
    /// Attempts that we gave up.
    cut: u64,
    /// Those of them whose answer had not begun.
    unheard: u64,
}

impl Account {
    /// To the token, where no attempt was given up. One that was may not have reached the provider at all, or the
    /// provider may have written on until it noticed: a row more in the log, some tokens more on the bill.
    fn agrees(&self) -> bool {
        let [rows, input, output] = self.logged;
        let [billed_rows, billed_input, billed_output] = self.billed;
        if self.cut == 0 {
            return self.logged == self.billed;
        }
        let missing = rows.saturating_sub(billed_rows);
        billed_rows <= rows
            && missing <= self.unheard
            && input == billed_input + missing * INPUT_TOKENS
            && output <= billed_output
    }
}

/// The log has a row for each request upstream, and the tokens that were billed.
async fn check_bill(stage: &Stage, upstreams: &[Upstream]) {
    let records = stage.ledger.all();
    let accounts = || {
        let mut accounts = HashMap::<(String, String), Account>::new();
        for record in &records {
            let key = (record.provider.to_string(), record.decision_id.to_string());
            let account = accounts.entry(key).or_default();
            let usage = record.usage.unwrap_or_default();
            add(&mut account.logged, [1, usage.input, usage.output]);
            let cut = matches!(record.outcome, Outcome::Cancelled(_));
            account.cut += u64::from(cut);
            account.unheard += u64::from(cut && record.ttft.is_none());
        }
        for (name, upstream) in NAMES.iter().zip(upstreams) {
            for dealt in upstream.books() {
                let account = accounts.entry(((*name).to_owned(), dealt.ask)).or_default();
                add(&mut account.billed, [1, dealt.input_tokens, dealt.output_tokens]);
            }
        }
        accounts
    };
    settles(
        || accounts().values().all(Account::agrees),
        "the log and the providers' bills differ",
    )
    .await;
    let (mut logged, mut billed, mut unseen) = ([0; 3], [0; 3], 0);
    for account in accounts().values() {
        add(&mut logged, account.logged);
        add(&mut billed, account.billed);
        unseen += account.billed[2] - account.logged[2];
    }
    println!("attempts, input and output tokens logged {logged:?}, billed {billed:?}");
    assert!(
        unseen * 100 <= billed[2],
        "{unseen} output tokens were billed unseen"
    );
    assert!(
        (logged[0] - billed[0]) * 100 <= logged[0],
        "too many attempts reached nobody"
    );
}

fn add(sum: &mut [u64; 3], more: [u64; 3]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

async fn settles(condition: impl Fn() -> bool, complaint: &str) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{complaint}");
}
