//! The experiments that start while the demonstration runs, as any client of the server can follow them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::{AskError, Client};

/// Where an experiment is, as `GET /v1/experiments` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Trial {
    definition: Definition,
    phase: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Definition {
    name: String,
    statement: String,
}

#[derive(Debug, Deserialize)]
struct List {
    experiments: Vec<Trial>,
}

/// What a report of an experiment says in one sentence.
#[derive(Debug, Deserialize)]
struct Report {
    outcome: Outcome,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    verdict: String,
    sentence: String,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// One that had ended before the demonstration began, and is none of its.
    Earlier {
        /// Its name.
        name: String,
    },
    /// An experiment runs.
    Started {
        /// Its name.
        name: String,
        /// Its hypothesis.
        statement: String,
    },
    /// It is over and its report is written.
    Ended {
        /// Its name.
        name: String,
        /// `ship`, `stop_for_harm`, ...
        verdict: String,
        /// The report's first sentence.
        sentence: String,
    },
}

/// What was told of each experiment so far: whether its end was.
pub(super) type Told = BTreeMap<String, bool>;

/// What is new on the server since `told`; `first` for the first look.
pub(super) async fn look(client: &Client, told: Told, first: bool) -> Vec<News> {
    read(client, &told, first).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the experiments cannot be asked for");
        Vec::new()
    })
}

async fn read(client: &Client, told: &Told, first: bool) -> Result<Vec<News>, AskError> {
    let list: List = serde_json::from_str(&client.get("/v1/experiments").await?)?;
    let mut news = Vec::new();
    for Trial { definition, phase } in list.experiments {
        let Definition { name, statement } = definition;
        let over = phase != "running";
        match told.get(&name) {
            // The same question may be asked anew: then it runs again.
            Some(true) if over => continue,
            Some(true) => news.push(News::Started {
                name: name.clone(),
                statement,
            }),
            Some(false) if !over => continue,
            None if over && first => {
                news.push(News::Earlier { name });
                continue;
            }
            None => news.push(News::Started {
                name: name.clone(),
                statement,
            }),
            Some(false) => {}
        }
        if over {
            let path = format!("/reports/{name}/report.json");
            let Ok(text) = client.get(&path).await else {
                continue;
            };
            let Report { outcome } = serde_json::from_str(&text)?;
            // The report is written a moment after the verdict.
            if outcome.verdict != "not_enough_data" {
                news.push(News::Ended {
                    name,
                    verdict: outcome.verdict,
                    sentence: outcome.sentence,
                });
            }
        }
    }
    Ok(news)
}
