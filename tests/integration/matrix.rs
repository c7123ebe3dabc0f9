//! Every fault, streamed or not, at the first, the middle and the last place of a chain, through the real server:
//! what the client sees, what the log says, and whether the books agree with the bill. The provider's wire format
//! changes from case to case; `dispatch::faults` crosses the faults with every format.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use pointsman::failure::FailureKind;
use pointsman::store::AttemptRow;

use crate::dispatch::faults::{Effect, FAULTS, WIRES, bill, effect};
use crate::served::{House, Seen, see};
use crate::upstream::{Fault, Upstream, Wire, full_answer};

/// Cases at a time: two cores serve both sides.
const AT_ONCE: usize = 32;
const DEADLINE: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug)]
struct Case {
    number: usize,
    fault: Fault,
    stream: bool,
    /// 0, 1 or 2 in a chain of three.
    place: usize,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for fault in FAULTS {
            for stream in [false, true] {
                cases.extend((0..3).map(|place| (fault, stream, place)));
            }
        }
        let numbered = cases.into_iter().enumerate();
        numbered
            .map(|(number, (fault, stream, place))| Self {
                number,
                fault,
                stream,
                place,
            })
            .collect()
    }

    fn ask(&self) -> String {
        format!("ask-{}", self.number)
    }

    /// What comes before the fault finds the prompt too long, which says nothing of anybody's health; what comes after
    /// it is well. Both are shared by all cases.
    fn names(&self) -> [String; 3] {
        [0, 1, 2].map(|index| match index.cmp(&self.place) {
            std::cmp::Ordering::Less => format!("short-{index}"),
            std::cmp::Ordering::Equal => format!("c{}", self.number),
            std::cmp::Ordering::Greater => format!("well-{index}"),
        })
    }

    /// Who serves, and how; `None`: nobody can.
    fn expected(&self) -> Option<(usize, Effect)> {
        match effect(self.fault, self.stream) {
            Effect::Fails(_) if self.place < 2 => Some((self.place + 1, Effect::Serves)),
            Effect::Fails(_) => None,
            serves => Some((self.place, serves)),
        }
    }
}

async fn upstreams(cases: &[Case]) -> HashMap<String, Upstream> {
    let shared = [
        ("short-0", Wire::OpenAi, Fault::TooLong),
        ("short-1", Wire::Anthropic, Fault::TooLong),
        ("well-1", Wire::Gemini, Fault::None),
        ("well-2", Wire::OpenAi, Fault::None),
    ];
    let mut upstreams = HashMap::new();
    for (name, wire, fault) in shared {
        upstreams.insert(name.to_owned(), Upstream::always(name, wire, fault).await);
    }
    for case in cases {
        let name = format!("c{}", case.number);
        let wire = WIRES[case.number % WIRES.len()];
        let upstream = Upstream::always(&name, wire, case.fault).await;
        upstreams.insert(name, upstream);
    }
    upstreams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_place_through_the_server() {
    let cases = Case::all();
    assert_eq!(cases.len(), FAULTS.len() * 2 * 3);
    let upstreams = upstreams(&cases).await;
    let mut more = "[embedding]\nmodel = \"off\"\n".to_owned();
    for case in &cases {
        let [first, middle, last] = case.names();
        write!(
            more,
            "[[routes]]\nname = \"r{}\"\nmodels = [\"{first}/m\"]\nfallbacks = [\"{middle}/m\", \"{last}/m\"]\n\
             hedge = {{ enabled = false }}\n",
            case.number
        )
        .unwrap();
    }
    let named: Vec<(String, &Upstream)> = upstreams
        .iter()
        .map(|(name, upstream)| (name.clone(), upstream))
        .collect();
    let house = House::with(&named, "max_response_bytes = 1048576", &more).await;
    let house_ref = &house;
    let seen: Vec<(Case, Seen)> = stream::iter(cases)
        .map(|case| async move {
            let ask = house_ref.ask(&format!("r{}", case.number), &case.ask(), case.stream, DEADLINE);
            let response = tokio::time::timeout(DEADLINE + Duration::from_secs(4), ask.send()).await;
            let response = response.unwrap_or_else(|_| panic!("{case:?} hangs past its deadline"));
            let seen = see(response.unwrap()).await;
            check_view(&case, &seen);
            (case, seen)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    house.app.dispatcher.idle().await;
    house.app.store.flush().await.unwrap();
    for (case, seen) in &seen {
        check_log_and_books(&house, case, seen, &upstreams).await;
    }
    assert!(house.app.pending.is_empty(), "every account is closed");
}

fn check_view(case: &Case, seen: &Seen) {
    let context = format!("{case:?}: {seen:?}");
    let names = case.names();
    let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap());
    assert!(header("x-router-decision-id").is_some(), "{context}");
    let Some((server, how)) = case.expected() else {
        let Effect::Fails(kind) = effect(case.fault, case.stream) else {
            unreachable!()
        };
        check_refusal(case, seen, kind, &names[2]);
        return;
    };
    let name = &names[server];
    assert_eq!(seen.status, 200, "{context}");
    assert_eq!(header("x-router-provider"), Some(name.as_str()), "{context}");
    assert_eq!(seen.model, format!("{name}/m"), "{context}");
    let primary = format!("{}/m", names[0]);
    let from = (server > 0).then_some(primary.as_str());
    assert_eq!(header("x-router-fallback-from"), from, "{context}");
    let full = full_answer(name, &case.ask());
    if let Effect::Breaks(kind) = how {
        let error = seen.error.as_ref().unwrap_or_else(|| panic!("{context}"));
        assert_eq!(error["code"], kind.as_str(), "{context}");
        assert_ne!(seen.finish.as_deref(), Some("stop"), "{context}");
        assert!(
            full.starts_with(&seen.text) && seen.text.len() < full.len(),
            "{context}"
        );
    } else {
        assert_eq!((&seen.text, seen.error.as_ref()), (&full, None), "{context}");
        assert_eq!(seen.finish.as_deref(), Some("stop"), "{context}");
        assert!(seen.cost.is_some_and(|cost| cost > 0.0), "{context}");
    }
}

fn check_refusal(case: &Case, seen: &Seen, kind: FailureKind, provider: &str) {
    let context = format!("{case:?}: {seen:?}");
    let status = match kind {
        FailureKind::RateLimitExceeded => 429,
        FailureKind::ProviderUnavailable => 502,
        FailureKind::ProviderOverloaded => 503,
        FailureKind::Timeout => 504,
        other => unreachable!("{other}"),
    };
    assert_eq!(seen.status, status, "{context}");
    let error = seen.error.as_ref().unwrap_or_else(|| panic!("{context}"));
    assert_eq!(error["code"], kind.as_str(), "{context}");
    assert_eq!(error["metadata"]["provider"], provider, "{context}");
    let text = error.to_string();
    assert!(!text.contains("127.0.0.1") && !text.contains("529"), "{context}");
    // A provider that does not say how long to wait leaves that to us.
    let is_told = kind == FailureKind::RateLimitExceeded;
    assert_eq!(seen.retry_after.is_some(), is_told, "{context}");
}

/// The log has a row for each request that an upstream saw, in the order of the chain; the tokens in it are those
/// that were billed, and the cost that the client was told is their sum.
async fn check_log_and_books(house: &House, case: &Case, seen: &Seen, upstreams: &HashMap<String, Upstream>) {
    let id = seen.headers["x-router-decision-id"].to_str().unwrap();
    let joined = house.app.store.reader().joined(id).unwrap().unwrap();
    let rows: &[AttemptRow] = &joined.attempts;
    let context = format!("{case:?}: {rows:#?}");
    let mut dealt = Vec::new();
    for name in case.names() {
        let upstream = &upstreams[&name];
        dealt.extend(bill(std::slice::from_ref(upstream), upstream.requests()).await);
    }
    dealt.retain(|dealt| dealt.ask == case.ask());
    let sent = dealt.len();
    // A connection without TLS fails before there is a request.
    let no_tls = matches!(case.fault, Fault::TlsFailure | Fault::BadCertificate);
    assert!(sent == rows.len() || no_tls, "{sent} {context}");
    let numbers: Vec<u32> = rows.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=rows.len() as u32).collect::<Vec<_>>(), "{context}");
    assert_eq!(rows[0].role, "primary", "{context}");
    let attempts = seen.headers.get("x-router-attempts").unwrap();
    assert_eq!(attempts.to_str().unwrap(), rows.len().to_string(), "{context}");

    let served: Vec<&AttemptRow> = rows.iter().filter(|row| row.served).collect();
    match case.expected() {
        None => assert!(served.is_empty(), "{context}"),
        Some((server, how)) => {
            let [row] = served.as_slice() else {
                panic!("{context}")
            };
            assert_eq!(&*row.provider, case.names()[server].as_str(), "{context}");
            let word = match how {
                Effect::Breaks(kind) => kind.as_str(),
                _ => "succeeded",
            };
            assert_eq!(row.outcome, word, "{context}");
        }
    }
    let costs: Option<Vec<i64>> = rows.iter().map(|row| row.cost.map(|cost| cost.nanos())).collect();
    let cost: i64 = costs.unwrap_or_else(|| panic!("{context}")).iter().sum();
    if let Some(told) = seen.cost {
        assert!((told * 1e9 - cost as f64).abs() < 0.5, "{told} {context}");
    }
    let billed = dealt.iter().fold((0, 0), |sum, dealt| {
        (sum.0 + dealt.input_tokens, sum.1 + dealt.output_tokens)
    });
    let usages = rows.iter().filter_map(|row| row.usage);
    let (told, guessed): (Vec<_>, Vec<_>) = usages.partition(|usage| !usage.estimated);
    // Where no usage was told the prompt is estimated by our own counting, which is not this upstream's.
    let input: u64 = told.iter().map(|usage| usage.input).sum::<u64>()
        + guessed.len() as u64 * crate::upstream::INPUT_TOKENS;
    let output: u64 = told.iter().chain(&guessed).map(|usage| usage.output).sum();
    // A login page in the provider's place is billed by nobody; the log cannot know that it was not the provider.
    if case.fault != Fault::WrongContentType {
        assert_eq!((input, output), billed, "{context}");
    }
}
