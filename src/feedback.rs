//! Reads scores as clients send them, and checks them. What a score is joined to is looked up by the caller.
//!
//! The words of other systems' users are understood too: `value` for `score`, `metric_name` for `metric`, and
//! `request_id`, `inference_id`, `decision_id` or `episode_id` for `id`.

use serde_json::{Map, Value};

/// Who scores when the client does not say.
pub const ANONYMOUS: &str = "anonymous";
/// The metric when the client does not name one.
pub const QUALITY: &str = "quality";
/// Longest text kept of any one field, in bytes.
const MAX_TEXT: usize = 4096;

/// A checked score.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    /// A response, decision or episode id of ours.
    pub target: Target,
    /// What is scored; [`QUALITY`] is what the policy learns from.
    pub metric: String,
    /// In [0,1].
    pub score: f64,
    /// Who scored.
    pub rater: String,
    /// Free text.
    pub comment: Option<String>,
    /// Further tags, as sent.
    pub tags: Map<String, Value>,
}

/// What a score is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any id; which kind is found out by looking it up.
    Any(String),
    /// An episode: the score is for each of its decisions.
    Episode(String),
}

impl Target {
    /// The id itself.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Any(id) | Self::Episode(id) => id,
        }
    }
}

/// Why a score was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// The item is no object.
    #[error("feedback must be a JSON object, or an array of them")]
    NotAnObject,
    /// No id was given.
    #[error("`id` is missing: send the response id (`chatcmpl-...`), the decision id or an episode id")]
    NoId,
    /// A field has the wrong type.
    #[error("`{field}` must be {expected}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// No score was given.
    #[error("`score` is missing: send a number in [0,1] or a boolean")]
    NoScore,
    /// The score is not in [0,1].
    #[error("`score` is {score}, but must be a number in [0,1] or a boolean")]
    OutOfRange {
        /// What was sent.
        score: String,
    },
    /// A field under two of its names, with different values.
    #[error("`{field}` and `{other}` are names of the same field, but differ; send one of them")]
    Contradiction {
        /// The field.
        field: &'static str,
        /// Its other name.
        other: &'static str,
    },
    /// A field is not known.
    #[error("`{field}` is not a field of feedback; known are id, metric, score, rater, comment, tags")]
    Unknown {
        /// The field.
        field: String,
    },
    /// A field is too long.
    #[error("`{field}` is longer than {MAX_TEXT} bytes")]
    TooLong {
        /// The field.
        field: &'static str,
    },
}

impl FeedbackError {
    /// The field at fault, for the error's `param`.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::NotAnObject => None,
            Self::NoId => Some("id"),
            Self::NoScore | Self::OutOfRange { .. } => Some("score"),
            Self::WrongType { field, .. } | Self::TooLong { field } | Self::Contradiction { field, .. } => {
                Some(field)
            }
            Self::Unknown { field } => Some(field),
        }
    }
}

impl Feedback {
    /// Reads one item.
    ///
    /// # Errors
    /// See [`FeedbackError`]: nothing is guessed and nothing out of range is clamped.
    pub fn from_json(item: &Value) -> Result<Self, FeedbackError> {
        let Value::Object(fields) = item else {
            return Err(FeedbackError::NotAnObject);
        };
        if let Some(field) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
            return Err(FeedbackError::Unknown { field: field.clone() });
        }
        let episode = text(fields, "episode_id")?;
        let id = one_answer(fields)?;
        let target = match (id, episode) {
            (Some(id), _) => Target::Any(id),
            (None, Some(id)) => Target::Episode(id),
            (None, None) => return Err(FeedbackError::NoId),
        };
        Ok(Self {
            target,
            metric: either(fields, "metric", "metric_name", text)?.unwrap_or_else(|| QUALITY.into()),
            score: either(fields, "score", "value", number)?.ok_or(FeedbackError::NoScore)?,
            rater: text(fields, "rater")?.unwrap_or_else(|| ANONYMOUS.into()),
            comment: text(fields, "comment")?,
            tags: match fields.get("tags") {
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(tags)) => tags.clone(),
                Some(_) => {
                    return Err(FeedbackError::WrongType {
                        field: "tags",
                        expected: "an object",
                    });
                }
            },
        })
    }
}

/// What other protocols put before our decision id to make a response id.
const RESPONSE_PREFIXES: [&str; 5] = ["chatcmpl-", "msg_", "resp_", "embd-", "cmpl-"];

/// The decision in a response id.
#[must_use]
pub fn decision_in(id: &str) -> &str {
    RESPONSE_PREFIXES
        .iter()
        .find_map(|prefix| id.strip_prefix(prefix))
        .unwrap_or(id)
}

/// The id of the answer that is scored. Where several are given, they must be of one answer.
fn one_answer(fields: &Map<String, Value>) -> Result<Option<String>, FeedbackError> {
    let mut first: Option<(&'static str, String)> = None;
    for other in ["id", "request_id", "decision_id", "inference_id"] {
        let Some(id) = text(fields, other)? else {
            continue;
        };
        match &first {
            Some((field, known)) if decision_in(known) != decision_in(&id) => {
                return Err(FeedbackError::Contradiction { field, other });
            }
            Some(_) => {}
            None => first = Some((other, id)),
        }
    }
    Ok(first.map(|(_, id)| id))
}

const FIELDS: [&str; 13] = [
    "id",
    "request_id",
    "decision_id",
    "inference_id",
    "episode_id",
    "metric",
    "metric_name",
    "score",
    "value",
    "rater",
    "comment",
    "tags",
    "source",
];

/// A score: a number in [0,1] or a boolean. JSON has no NaN; a huge number is out of range like any other.
fn number(fields: &Map<String, Value>, field: &'static str) -> Result<Option<f64>, FeedbackError> {
    let Some(score) = fields.get(field).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let value = match score {
        Value::Bool(good) => f64::from(u8::from(*good)),
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        _ => {
            return Err(FeedbackError::WrongType {
                field: "score",
                expected: "a number in [0,1] or a boolean",
            });
        }
    };
    if (0.0..=1.0).contains(&value) {
        Ok(Some(value))
    } else {
        Err(FeedbackError::OutOfRange {
            score: score.to_string(),
        })
    }
}

/// What `read` finds under either name of a field.
fn either<T: PartialEq>(
    fields: &Map<String, Value>,
    field: &'static str,
    other: &'static str,
    read: impl Fn(&Map<String, Value>, &'static str) -> Result<Option<T>, FeedbackError>,
) -> Result<Option<T>, FeedbackError> {
    match (read(fields, field)?, read(fields, other)?) {
        (Some(one), Some(two)) if one != two => Err(FeedbackError::Contradiction { field, other }),
        (one, two) => Ok(one.or(two)),
    }
}

fn text(fields: &Map<String, Value>, field: &'static str) -> Result<Option<String>, FeedbackError> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(value)) if value.len() > MAX_TEXT => Err(FeedbackError::TooLong { field }),
        Some(Value::String(value)) if value.is_empty() => Err(FeedbackError::WrongType {
            field,
            expected: "a text that is not empty",
        }),
        Some(Value::String(value)) => Ok(Some(value.clone())),
        Some(_) => Err(FeedbackError::WrongType {
            field,
            expected: "a text",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn other_systems_words_are_understood() {
        let read =
            Feedback::from_json(&json!({"inference_id": "d1", "metric_name": "task_success", "value": true}));
        let read = read.unwrap();
        assert_eq!(
            (read.target.id(), read.metric.as_str(), read.score),
            ("d1", "task_success", 1.0)
        );
        assert_eq!(read.rater, ANONYMOUS);
        let episode = Feedback::from_json(&json!({"episode_id": "e1", "score": 0.25})).unwrap();
        assert_eq!(episode.target, Target::Episode("e1".into()));
    }

    #[test]
    fn of_two_different_scores_none_is_picked() {
        let read = |item: Value| Feedback::from_json(&item);
        assert_eq!(
            read(json!({"id": "x", "score": 0.5, "value": 0.6})),
            Err(FeedbackError::Contradiction {
                field: "score",
                other: "value"
            })
        );
        assert_eq!(
            read(json!({"id": "x", "score": 1, "metric": "a", "metric_name": "b"})),
            Err(FeedbackError::Contradiction {
                field: "metric",
                other: "metric_name"
            })
        );
        assert_eq!(
            read(json!({"id": "x", "score": 0.5, "value": 0.5}))
                .unwrap()
                .score,
            0.5
        );
        for (score, value) in [
            (json!(1), json!(1.0)),
            (json!(true), json!(1)),
            (json!(0.0), json!(false)),
        ] {
            assert!(
                read(json!({"id": "x", "score": score, "value": value})).is_ok(),
                "{score} is {value}"
            );
        }
        assert!(matches!(
            read(json!({"id": "x", "score": true, "value": 0})),
            Err(FeedbackError::Contradiction { field: "score", .. })
        ));
        assert_eq!(
            read(json!({"id": "x", "score": null, "value": 0.5}))
                .unwrap()
                .score,
            0.5
        );
        assert_eq!(
            read(json!({"id": "x", "score": null})),
            Err(FeedbackError::NoScore)
        );
    }

    #[test]
    fn of_two_different_answers_none_is_picked() {
        let read = |item: Value| Feedback::from_json(&item).map(|read| read.target.id().to_owned());
        assert_eq!(
            read(json!({"id": "chatcmpl-a", "decision_id": "b", "score": 1})),
            Err(FeedbackError::Contradiction {
                field: "id",
                other: "decision_id"
            })
        );
        assert_eq!(
            read(json!({"request_id": "a", "inference_id": "b", "score": 1})),
            Err(FeedbackError::Contradiction {
                field: "request_id",
                other: "inference_id"
            })
        );
        // An answer's id and its decision's are of one answer.
        let same = json!({"id": "chatcmpl-a", "decision_id": "a", "request_id": null, "score": 1});
        assert_eq!(read(same), Ok("chatcmpl-a".to_owned()));
    }

    #[test]
    fn nothing_out_of_range_is_clamped() {
        for score in [json!(1.01), json!(-0.1), json!(1e300)] {
            let refused = Feedback::from_json(&json!({"id": "x", "score": score}));
            assert!(
                matches!(refused, Err(FeedbackError::OutOfRange { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(
            Feedback::from_json(&json!({"id": "x"})),
            Err(FeedbackError::NoScore)
        );
        assert_eq!(
            Feedback::from_json(&json!({"score": 1})),
            Err(FeedbackError::NoId)
        );
        assert_eq!(
            Feedback::from_json(&json!({"id": "x", "score": 1, "scroe": 2})),
            Err(FeedbackError::Unknown {
                field: "scroe".into()
            })
        );
        assert!(matches!(
            Feedback::from_json(&json!({"id": "x", "score": "0.5"})),
            Err(FeedbackError::WrongType { field: "score", .. })
        ));
    }
}
