//! The demonstration's load: a bounded, seeded stream of requests to the server's own address.

use std::io::Write;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::MissedTickBehavior;

use super::client::{AskError, Client, Served};
use super::ledger::{Ledger, Rival};
use super::prompts::{Prompt, PromptBook, PromptBookError};
use super::screen;
use super::setup::SEED;
use super::trials::{self, News, Told};
use crate::providers::simulated::recorded;

/// Users that the load pretends to be.
const USERS: u32 = 40;
/// Spread of a rater's mood around the true score: half the width of a uniform error.
const RATER_ERROR: f64 = 0.1;
/// Time between two looks at the server's experiments.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How the load runs.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// `http://127.0.0.1:8080`, without a slash at the end.
    pub base_url: String,
    /// A client key of the server, where it asks for one.
    pub api_key: Option<String>,
    /// Seed of prompts and ratings.
    pub seed: u64,
    /// Requests a second during the first two parts.
    pub per_second: u32,
    /// Requests of the first part, asked of the best single model by name: what one pays without a router.
    pub before: u64,
    /// Requests of the first two parts together; the second asks for `auto`.
    pub brisk: u64,
    /// Requests altogether; after the first two parts they come once a second.
    pub most: u64,
    /// Share of answers that are rated, in [0,1].
    pub rated: f64,
    /// Most requests in flight; the next one waits.
    pub in_flight: usize,
    /// Seconds between two lines on the screen.
    pub line_every: u64,
    /// Where the reports will be, for the screen.
    pub reports: String,
}

impl LoadSettings {
    /// A minute and a half of 40 requests a second, the first five seconds without routing, then one a second for
    /// an hour.
    #[must_use]
    pub fn new(base_url: &str) -> Self {
        Self {
            base_url: base_url.trim_end_matches('/').to_owned(),
            api_key: None,
            seed: 1,
            per_second: 40,
            before: 200,
            brisk: 3600,
            most: 7200,
            rated: 0.8,
            in_flight: 64,
            line_every: 5,
            reports: "data/reports".to_owned(),
        }
    }
}

/// Why the demonstration cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The prompts are damaged.
    #[error(transparent)]
    Prompts(#[from] PromptBookError),
    /// The recorded figures are damaged.
    #[error("the recorded figures of the simulated models are damaged: {0}")]
    Recorded(#[from] serde_json::Error),
    /// The recorded figures name no model.
    #[error("the recorded figures name no model")]
    NoModels,
    /// The screen cannot be written to.
    #[error("the demonstration's lines cannot be written: {0}")]
    Screen(#[from] std::io::Error),
}

/// A request that is over.
struct Finished {
    prompt: Prompt,
    routed: bool,
    served: Result<Served, AskError>,
    rated: bool,
}

/// Runs the load to its end and returns its books. Dropping the future stops it at once.
///
/// `http` must reach the server; `screen` gets the head, one line every few seconds, and a sum.
///
/// # Errors
/// [`DemoError`] for damaged data or a screen that is gone. A request that fails is counted, not an error.
pub async fn run_load(
    settings: &LoadSettings,
    http: reqwest::Client,
    screen: &mut (dyn Write + Send),
) -> Result<Ledger, DemoError> {
    let book = PromptBook::shipped()?;
    let recorded = recorded()?;
    let rival = Rival::best_of(recorded.models, SEED).ok_or(DemoError::NoModels)?;
    let client = Client {
        http,
        base_url: settings.base_url.clone(),
        api_key: settings.api_key.clone(),
    };
    screen.write_all(
        screen::head(&rival, &recorded.source, &settings.base_url, &settings.reports).as_bytes(),
    )?;
    screen.flush()?;

    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut ledger = Ledger::default();
    let mut running = FuturesUnordered::new();
    let (mut asked, mut finished_requests) = (0, 0);
    let mut lines = ticks(Duration::from_secs(settings.line_every.max(1)));
    lines.tick().await;
    let mut seconds = 0;
    let mut pace = ticks(Duration::from_secs(1) / settings.per_second.max(1));
    let mut looks = ticks(LOOK_EVERY);
    let (mut told, mut first_look) = (Told::new(), true);
    let mut news = FuturesUnordered::new();
    while asked < settings.most || !running.is_empty() {
        tokio::select! {
            _ = pace.tick(), if asked < settings.most && running.len() < settings.in_flight.max(1) => {
                asked += 1;
                if asked == settings.brisk {
                    pace = ticks(Duration::from_secs(1));
                }
                let routed = asked > settings.before;
                running.push(one_request(&client, &book, &rival, routed, settings.rated, rng.r#gen()));
            }
            Some(finished) = running.next() => {
                book_keeping(&mut ledger, &rival, finished);
                finished_requests += 1;
                if finished_requests == settings.brisk {
                    screen.write_all(screen::sum(&ledger, &rival, &settings.reports).as_bytes())?;
                    if settings.most > settings.brisk {
                        screen.write_all(screen::SLOWER.as_bytes())?;
                    }
                    screen.flush()?;
                }
            }
            _ = looks.tick(), if news.is_empty() => {
                news.push(trials::look(&client, told.clone(), first_look));
                first_look = false;
            }
            Some(items) = news.next() => {
                for item in items {
                    screen.write_all(screen::news(&item, &settings.base_url, &settings.reports).as_bytes())?;
                    screen.flush()?;
                    match item {
                        News::Started { name, .. } => told.insert(name, false),
                        News::Ended { name, .. } | News::Earlier { name } => told.insert(name, true),
                    };
                }
            }
            _ = lines.tick() => {
                seconds += settings.line_every.max(1);
                screen.write_all(screen::line(seconds, &ledger.turn(), &rival).as_bytes())?;
                screen.flush()?;
            }
        }
    }
    screen.write_all(screen::sum(&ledger, &rival, &settings.reports).as_bytes())?;
    screen.flush()?;
    Ok(ledger)
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Asks a prompt and, mostly, rates the answer as a person would: near the truth.
async fn one_request(
    client: &Client,
    book: &PromptBook,
    rival: &Rival,
    routed: bool,
    rated: f64,
    seed: u64,
) -> Finished {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let prompt = book.draw(&mut rng);
    let user = format!("demo-{}", rng.gen_range(0..USERS));
    let stream = rng.gen_bool(0.5);
    let (rates, mood) = (
        rng.gen_bool(rated.clamp(0.0, 1.0)),
        rng.gen_range(-RATER_ERROR..RATER_ERROR),
    );
    let model = if routed { "auto" } else { rival.arm() };
    let served = client.ask(&prompt, model, &user, stream).await;
    let mut posted = false;
    if let (true, Ok(answer)) = (rates, &served)
        && let Some(score) = rival.score(&answer.model, &prompt.traits)
    {
        let rater = format!("user:{user}");
        match client
            .rate(&answer.id, (score + mood).clamp(0.0, 1.0), &rater)
            .await
        {
            Ok(()) => posted = true,
            Err(error) => tracing::warn!(%error, "the demonstration's rater could not post a score"),
        }
    }
    Finished {
        prompt,
        routed,
        served,
        rated: posted,
    }
}

fn book_keeping(ledger: &mut Ledger, rival: &Rival, finished: Finished) {
    ledger.rated += u64::from(finished.rated);
    match finished.served {
        Ok(answer) => {
            let traits = &finished.prompt.traits;
            let score = rival.score(&answer.model, traits).unwrap_or_default();
            let best = rival.would_have(traits, answer.input_tokens);
            ledger.book(&answer.model, answer.cost_usd, score, best, finished.routed);
        }
        Err(error) => {
            ledger.failed += 1;
            tracing::warn!(%error, "a request of the demonstration failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::Router;
    use axum::routing::post;
    use serde_json::{Value, json};

    use super::*;

    fn client() -> reqwest::Client {
        // Another test of this process may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder().no_proxy().build().unwrap()
    }

    /// A server that lets one model answer everything and counts the scores it is given.
    async fn serve_one_model(scores: Arc<AtomicU64>) -> String {
        let chat = |body: String| async move {
            let body: Value = serde_json::from_str(&body).unwrap();
            let answer = json!({
                "id": "chatcmpl-1", "model": "sim-meta/llama-3.1-8b", "choices": [],
                "usage": {"prompt_tokens": 10, "cost": 0.001},
            });
            let stream = body["stream"].as_bool().unwrap();
            if stream {
                format!("data: {answer}\n\ndata: [DONE]\n\n")
            } else {
                answer.to_string()
            }
        };
        let feedback = move |body: String| async move {
            let body: Value = serde_json::from_str(&body).unwrap();
            assert!((0.0..=1.0).contains(&body["score"].as_f64().unwrap()));
            scores.fetch_add(1, Ordering::Relaxed);
        };
        let routes = Router::new()
            .route("/v1/chat/completions", post(chat))
            .route("/v1/feedback", post(feedback));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn asks_rates_and_compares() {
        let scores = Arc::new(AtomicU64::new(0));
        let base_url = serve_one_model(scores.clone()).await;
        let settings = LoadSettings {
            per_second: 1000,
            before: 0,
            brisk: 200,
            most: 201,
            rated: 0.5,
            ..LoadSettings::new(&base_url)
        };
        let mut shown = Vec::new();
        let ledger = run_load(&settings, client(), &mut shown).await.unwrap();
        assert_eq!((ledger.total.requests, ledger.failed), (201, 0));
        assert_eq!(ledger.rated, scores.load(Ordering::Relaxed));
        // Binomial(201, 0.5) has a standard deviation of 7.1.
        assert!((65..=135).contains(&ledger.rated), "{}", ledger.rated);
        assert!((ledger.total.cost_usd - 0.201).abs() < 1e-9);
        assert!(ledger.total.mean_quality() < ledger.total.mean_best_quality());
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains("one request a second"), "{shown}");
        assert!(
            shown.contains("SIMULATED") && shown.contains("gemini-2.5-pro alone would have cost"),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_counted_not_fatal() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let settings = LoadSettings {
            per_second: 1000,
            before: 0,
            brisk: 5,
            most: 5,
            ..LoadSettings::new(&base_url)
        };
        let mut shown = Vec::new();
        let ledger = run_load(&settings, client(), &mut shown).await.unwrap();
        assert_eq!((ledger.total.requests, ledger.failed), (0, 5));
        assert!(
            String::from_utf8(shown)
                .unwrap()
                .contains("No routed request was answered; 5 failed")
        );
    }
}
