//! Learns from a server's own decision log: what was observed of each model on the traffic that it really has.
//!
//! The log holds no prompt, but the feature vectors that the server decided on; so the projections stay, and only
//! what is known of each model is fitted anew. Scores and attempts are read in the order of their places in the log,
//! and the seed notes how far: a server that takes it up learns only what came after.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use xxhash_rust::xxh3::xxh3_64;

use super::prior::family;
use crate::feedback::QUALITY;
use crate::learner::{Late, Lesson, Versions, on_policy};
use crate::policy::seed::{LabelledOutcome, LogMark, Seed, SeedBuilder, SeedSettings, Traits};
use crate::policy::{Contexts, View};
use crate::store::{LoggedFeedback, Reader};

/// Name of the database in a data directory, and how an SQLite file begins.
const DATABASE: &str = "pointsman.db";
const SQLITE: &[u8] = b"SQLite format 3\0";
/// Entries read at once.
const PAGE: u32 = 500;
/// A score whose answer has not ended is waited for by the server; one of this age has no answer.
const ENDED_MS: i64 = 3_600_000;
/// What a prior that was there before says of a model's level counts for so many scores.
const LEVEL: f64 = 10.0;
/// A seed from a log counts for as much as the learner itself remembers: 1 / (1 - 0.9999).
const MOST_SCORES: f64 = 10_000.0;

/// Whether `path` is a data directory or a database rather than recorded outcomes.
#[must_use]
pub fn is_log(path: &Path) -> bool {
    let begins = || -> std::io::Result<bool> {
        let mut head = [0; SQLITE.len()];
        std::io::Read::read_exact(&mut std::fs::File::open(path)?, &mut head)?;
        Ok(head == *SQLITE)
    };
    path.is_dir() || begins().unwrap_or(false)
}

/// A log to learn from.
pub struct Log {
    reader: Reader,
    name: String,
    /// How far it is read: what comes later is left to the server.
    end: LogMark,
    /// The scores that replaced earlier ones, by decision and rater.
    revised: HashMap<u64, f64>,
    scores: u64,
}

/// What was learned from a log.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Its name.
    pub log: String,
    /// Scores learned from, by model.
    pub scores: BTreeMap<String, u64>,
    /// Scores of decisions that were made on other projections.
    pub other_features: u64,
    /// Held-out errors, with folds.
    pub errors: BTreeMap<String, Errors>,
}

/// Root mean square errors of one model's held-out scores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Errors {
    /// Scores.
    pub scores: f64,
    /// Of the mean of the model's other scores: squares, summed.
    pub mean: f64,
    /// Of the prior that was there before.
    pub before: f64,
    /// Of the prior that was fitted.
    pub fitted: f64,
}

impl Errors {
    /// Root mean squares: of the mean, of the prior before, of the fitted one.
    #[must_use]
    pub fn roots(&self) -> [f64; 3] {
        [self.mean, self.before, self.fitted].map(|sum| (sum / self.scores.max(1.0)).sqrt())
    }
}

/// One score with what it is about.
struct Scored<'a> {
    model: &'a str,
    decision: &'a str,
    category: Option<&'a str>,
    contexts: Contexts<'a>,
    score: f64,
}

impl Log {
    /// Opens the log in a data directory, beside a server that may be running, and finds how far it goes.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(path: &Path, now_ms: i64) -> anyhow::Result<Self> {
        let folder: PathBuf = match path.is_dir() {
            true => path.to_owned(),
            false => {
                ensure!(
                    path.file_name().is_some_and(|name| name == DATABASE),
                    "{} is a database, but not named {DATABASE}: name the data directory of a server",
                    path.display()
                );
                path.parent().unwrap_or(Path::new(".")).to_owned()
            }
        };
        let reader = Reader::open(if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &folder
        })?;
        let mut log = Self {
            name: folder
                .file_name()
                .map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned()),
            end: LogMark {
                log: reader.identity()?,
                feedback_seq: 0,
                // Usage and late embeddings may be read further than scores: they are separate sums.
                attempt_seq: reader.last_attempt()?,
                late_seq: reader.last_late()?,
                arms: Vec::new(),
            },
            reader,
            revised: HashMap::new(),
            scores: 0,
        };
        log.survey(now_ms)?;
        Ok(log)
    }

    /// Finds the last score whose answer has ended, and the scores that were replaced.
    fn survey(&mut self, now_ms: i64) -> anyhow::Result<()> {
        loop {
            let page = self.reader.feedback_since(self.end.feedback_seq, PAGE)?;
            let Some(last) = page.last() else { break };
            let more = last.seq;
            for logged in &page {
                // Its answer may still be on its way: the server will learn it.
                if logged.served.is_none() && now_ms - logged.decision.at.0 < ENDED_MS {
                    return Ok(());
                }
                if *logged.metric == *QUALITY {
                    self.scores += 1;
                    if logged.mean_before.is_some() {
                        self.revised.insert(key(logged), logged.mean);
                    }
                }
                self.end.feedback_seq = logged.seq;
            }
            self.end.feedback_seq = more;
        }
        Ok(())
    }

    /// Every score that counts, once, with the features that it was decided on.
    fn each(
        &self,
        versions: &Versions,
        other_features: &mut u64,
        mut learn: impl FnMut(&Scored<'_>),
    ) -> anyhow::Result<()> {
        let bar = ProgressBar::new(self.scores);
        let mut seq = 0;
        while seq < self.end.feedback_seq {
            let page = self.reader.feedback_since(seq, PAGE)?;
            let Some(last) = page.last() else { break };
            seq = last.seq;
            for logged in page.iter().filter(|logged| logged.seq <= self.end.feedback_seq) {
                bar.inc(1);
                if !on_policy(logged) || logged.mean_before.is_some() {
                    continue;
                }
                let Some(lesson) = Lesson::read(&logged.decision, versions) else {
                    *other_features += 1;
                    continue;
                };
                let late = match lesson.contexts().embedding {
                    None if versions.embedding != 0 => self.late(logged, versions)?,
                    _ => None,
                };
                let contexts = lesson.contexts_with(late.as_ref());
                if contexts.text.is_none() {
                    *other_features += 1;
                    continue;
                }
                learn(&Scored {
                    model: logged.decision.arm.as_str(),
                    decision: &logged.decision.id,
                    category: lesson.category(),
                    contexts,
                    score: self.revised.get(&key(logged)).copied().unwrap_or(logged.mean),
                });
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn late(&self, logged: &LoggedFeedback, versions: &Versions) -> anyhow::Result<Option<Late>> {
        let found = self.reader.late_of(&logged.decision.id)?;
        let known = found.filter(|(seq, _)| *seq <= self.end.late_seq);
        Ok(known.and_then(|(_, row)| Late::read(&row, versions)))
    }

    /// Lengths of answers and costs of calls: every call says something of them, scored or not.
    fn usage(&self, versions: &Versions) -> anyhow::Result<SeedBuilder> {
        let mut builder = SeedBuilder::default();
        let mut seq = 0;
        while seq < self.end.attempt_seq {
            let page = self.reader.attempts_since(seq, PAGE)?;
            let Some(last) = page.last() else { break };
            seq = last.seq;
            for logged in page.iter().filter(|logged| logged.seq <= self.end.attempt_seq) {
                let attempt = &logged.attempt;
                let lesson = logged
                    .decision
                    .as_ref()
                    .and_then(|row| Lesson::read(row, versions));
                let usage = attempt
                    .usage
                    .filter(|usage| !usage.estimated && attempt.finish.is_some());
                let (Some(lesson), Some(usage)) = (lesson, usage) else {
                    continue;
                };
                builder.add(&LabelledOutcome {
                    model: attempt.arm.as_str(),
                    category: None,
                    contexts: Contexts {
                        embedding: None,
                        ..lesson.contexts()
                    },
                    // Only lengths and costs are taken from this builder.
                    reward: 0.5,
                    length: Some(usage.output as f64),
                    cost_usd: attempt.cost.map(|cost| cost.dollars()),
                });
            }
        }
        Ok(builder)
    }

    /// Fits the seed of every model that was scored, around what `base` says of it, and puts it into `base`. With
    /// `folds`, each part of the scores is predicted from the others too.
    ///
    /// # Errors
    /// When the log cannot be read, or holds nothing to learn from.
    pub fn fit(&self, base: &mut Seed, versions: &Versions, folds: usize) -> anyhow::Result<Learned> {
        let mut learned = Learned {
            log: self.name.clone(),
            ..Learned::default()
        };
        // What was fitted from this log before is in it still: it must not count twice.
        let before: Vec<String> = base
            .learned
            .iter()
            .filter(|mark| mark.log == self.end.log)
            .flat_map(|mark| mark.arms.clone())
            .collect();
        base.learned.retain(|mark| mark.log != self.end.log);
        base.arms.retain(|arm| !before.contains(&arm.model));

        let mut whole = SeedBuilder::default();
        let mut parts = vec![SeedBuilder::default(); folds];
        let mut other_features = 0;
        self.each(versions, &mut other_features, |scored| {
            whole.add(&scored.outcome());
            let own = part(scored.decision, folds);
            for (index, builder) in parts.iter_mut().enumerate() {
                if index != own {
                    builder.add(&scored.outcome());
                }
            }
            *learned.scores.entry(scored.model.to_owned()).or_default() += 1;
        })?;
        learned.other_features = other_features;
        if learned.scores.is_empty() {
            bail!(
                "the log in {} holds no score to learn from{}: post some to /v1/feedback first",
                self.name,
                match other_features {
                    0 => String::new(),
                    some => format!(
                        " ({some} were given to answers decided on other projections than those in --models-dir)"
                    ),
                }
            );
        }
        if folds > 1 {
            let seeds: Vec<Seed> = parts.iter().map(|part| fit(part, base)).collect();
            self.measure(versions, base, &seeds, &mut learned)?;
        }
        let mut fitted = fit(&whole, base);
        let lengths = self.usage(versions)?.build(&settings(), BTreeMap::new());
        for arm in &mut fitted.arms {
            family(&arm.model).clone_into(&mut arm.family);
            if let Some(usage) = lengths.arms.iter().find(|usage| usage.model == arm.model) {
                arm.length.clone_from(&usage.length);
                arm.mean_cost_usd = usage.mean_cost_usd;
            }
        }
        base.arms
            .retain(|arm| !fitted.arms.iter().any(|new| new.model == arm.model));
        base.learned.push(LogMark {
            arms: fitted.arms.iter().map(|arm| arm.model.clone()).collect(),
            ..self.end.clone()
        });
        base.arms.extend(fitted.arms);
        Ok(learned)
    }

    /// Squared errors of every score, predicted from the other parts.
    fn measure(
        &self,
        versions: &Versions,
        base: &Seed,
        seeds: &[Seed],
        learned: &mut Learned,
    ) -> anyhow::Result<()> {
        type Weights = BTreeMap<String, (Vec<f64>, f64, BTreeMap<String, f64>)>;
        let weights = |seed: &Seed| -> Weights {
            let arms = seed
                .arms
                .iter()
                .filter(|arm| learned.scores.contains_key(&arm.model));
            arms.filter_map(|arm| {
                let mean = arm.quality.get(&View::Text)?.mean()?;
                let offsets = arm
                    .categories
                    .iter()
                    .map(|(name, known)| (name.clone(), known.offset));
                Some((arm.model.clone(), (mean, arm.mean_quality, offsets.collect())))
            })
            .collect()
        };
        let fitted: Vec<_> = seeds.iter().map(weights).collect();
        let dot = |weights: &[f64], features: &[f32]| -> f64 {
            weights.iter().zip(features).map(|(w, x)| w * f64::from(*x)).sum()
        };
        let mut errors: BTreeMap<String, Errors> = BTreeMap::new();
        self.each(versions, &mut 0, |scored| {
            let own = part(scored.decision, seeds.len());
            let (Some((mean, level, offsets)), Some(features)) =
                (fitted[own].get(scored.model), scored.contexts.text)
            else {
                return;
            };
            let offset = scored.category.and_then(|name| offsets.get(name)).unwrap_or(&0.0);
            let known = around(base, scored.model, View::Text);
            let prior = known.map_or(0.5, |weights| dot(&weights, features));
            let square = |guess: f64| (scored.score - guess.clamp(0.0, 1.0)).powi(2);
            let sums = errors.entry(scored.model.to_owned()).or_default();
            sums.scores += 1.0;
            sums.mean += square(*level);
            sums.before += square(prior);
            sums.fitted += square(dot(mean, features) + offset);
        })?;
        learned.errors = errors;
        Ok(())
    }

    /// How far it was read, in words.
    #[must_use]
    pub fn extent(&self) -> String {
        format!(
            "log {}, scores to {}, calls to {}",
            self.end.log.get(..8).unwrap_or(&self.end.log),
            self.end.feedback_seq,
            self.end.attempt_seq
        )
    }

    /// Its name: that of the folder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Scored<'_> {
    fn outcome(&self) -> LabelledOutcome<'_> {
        LabelledOutcome {
            model: self.model,
            category: self.category,
            contexts: self.contexts,
            reward: self.score,
            length: None,
            cost_usd: None,
        }
    }
}

fn settings() -> SeedSettings {
    SeedSettings {
        intercept_ridge: LEVEL,
        most_prompts: MOST_SCORES,
        ..SeedSettings::default()
    }
}

/// Shrinks each model toward what `base` says of it, or of its relatives.
fn fit(builder: &SeedBuilder, base: &Seed) -> Seed {
    builder.build_around(&settings(), BTreeMap::new(), &|model, view| {
        around(base, model, view)
    })
}

fn around(base: &Seed, model: &str, view: View) -> Option<Vec<f64>> {
    let own = base.of(model).and_then(|arm| arm.quality.get(&view)?.mean());
    own.or_else(|| {
        let width = base
            .arms
            .iter()
            .find_map(|arm| Some(arm.quality.get(&view)?.dimensions()))?;
        let traits = Traits {
            family: family(model),
            ..Traits::default()
        };
        base.relatives(&traits, view, width)?.mean()
    })
}

fn key(logged: &LoggedFeedback) -> u64 {
    xxh3_64(logged.decision.id.as_bytes())
}

/// The part that a decision falls into, with all its scores.
fn part(decision: &str, folds: usize) -> usize {
    (xxh3_64(decision.as_bytes()) % folds.max(1) as u64) as usize
}

/// Opens every log.
///
/// # Errors
/// The first that cannot be read.
pub fn open_all(paths: &[PathBuf], now_ms: i64) -> anyhow::Result<Vec<Log>> {
    paths
        .iter()
        .map(|path| Log::open(path, now_ms).with_context(|| format!("cannot learn from {}", path.display())))
        .collect()
}
