//! Plain rules before the policy: a request of this kind goes to one of these models.

use crate::arm::{ArmId, Modalities, Modality};

/// What a rule asks of a request. Every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct When {
    /// The request holds this kind of content.
    pub modality: Option<Modality>,
    /// The prompt's category.
    pub category: Option<String>,
    /// At least this many input tokens, by estimate.
    pub min_input_tokens: Option<u64>,
    /// At most this many input tokens, by estimate.
    pub max_input_tokens: Option<u64>,
    /// Whether tools are offered.
    pub tools: Option<bool>,
    /// Whether the answer must fit a JSON schema or be JSON.
    pub structured_output: Option<bool>,
    /// Whether the prompt holds code.
    pub code: Option<bool>,
    /// The prompt's language, by its two-letter code.
    pub language: Option<String>,
    /// Request headers with these values; names without regard to case.
    pub header: Vec<(String, String)>,
    /// Entries of the request's `metadata`.
    pub tag: Vec<(String, String)>,
}

/// A rule: requests that match go to one of these models, in the policy's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which requests.
    pub when: When,
    /// The models that remain.
    pub models: Vec<ArmId>,
}

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Kinds of content in the request.
    pub modalities: Modalities,
    /// The prompt's category, when it is known.
    pub category: Option<&'a str>,
    /// Input tokens, by estimate.
    pub input_tokens: u64,
    /// Whether tools are offered.
    pub tools: bool,
    /// Whether the answer must fit a JSON schema or be JSON.
    pub structured_output: bool,
    /// Whether the prompt holds code.
    pub code: bool,
    /// The prompt's language, when it is known.
    pub language: Option<&'a str>,
    /// Request headers.
    pub headers: &'a [(String, String)],
    /// The request's `metadata`.
    pub tags: &'a [(String, String)],
}

impl When {
    /// Whether a request matches.
    #[must_use]
    pub fn matches(&self, seen: &Seen<'_>) -> bool {
        let flag = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        let word = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        self.modality
            .is_none_or(|modality| seen.modalities.contains(modality))
            && word(&self.category, seen.category)
            && word(&self.language, seen.language)
            && self
                .min_input_tokens
                .is_none_or(|least| seen.input_tokens >= least)
            && self.max_input_tokens.is_none_or(|most| seen.input_tokens <= most)
            && flag(self.tools, seen.tools)
            && flag(self.structured_output, seen.structured_output)
            && flag(self.code, seen.code)
            && self.header.iter().all(|(name, value)| {
                seen.headers
                    .iter()
                    .any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value)
            })
            && self.tag.iter().all(|wanted| seen.tags.contains(wanted))
    }

    /// Whether it asks for the prompt's category, so that it cannot be judged before that is known.
    #[must_use]
    pub const fn needs_category(&self) -> bool {
        self.category.is_some()
    }
}

impl Rule {
    /// The first rule that matches.
    #[must_use]
    pub fn first<'r>(rules: &'r [Self], seen: &Seen<'_>) -> Option<&'r Self> {
        rules.iter().find(|rule| rule.when.matches(seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen<'static> {
        Seen {
            modalities: Modalities::TEXT,
            category: Some("policy"),
            input_tokens: 1_000,
            tools: false,
            structured_output: false,
            code: false,
            language: Some("de"),
            headers: &[],
            tags: &[],
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let when = When {
            category: Some("policy".into()),
            min_input_tokens: Some(500),
            ..When::default()
        };
        assert!(when.matches(&seen()));
        let short = Seen {
            input_tokens: 499,
            ..seen()
        };
        assert!(!when.matches(&short));
        let unknown = Seen {
            category: None,
            ..seen()
        };
        assert!(!when.matches(&unknown));
    }

    #[test]
    fn no_condition_matches_everything() {
        assert!(When::default().matches(&seen()));
    }

    #[test]
    fn header_names_ignore_case_and_tags_do_not() {
        let when = When {
            header: vec![("X-Team".into(), "legal".into())],
            tag: vec![("plan".into(), "free".into())],
            ..When::default()
        };
        let headers = [("x-team".to_owned(), "legal".to_owned())];
        let tags = [("plan".to_owned(), "free".to_owned())];
        let with = Seen {
            headers: &headers,
            tags: &tags,
            ..seen()
        };
        assert!(when.matches(&with));
        let capital = [("Plan".to_owned(), "free".to_owned())];
        assert!(!when.matches(&Seen {
            tags: &capital,
            ..with
        }));
    }

    #[test]
    fn the_first_match_wins() {
        let rule = |modality, model| Rule {
            when: When {
                modality,
                ..When::default()
            },
            models: vec![ArmId::new(model)],
        };
        let rules = [rule(Some(Modality::Image), "a/vision"), rule(None, "b/any")];
        let pick = |modalities| {
            let seen = Seen { modalities, ..seen() };
            Rule::first(&rules, &seen).unwrap().models[0].to_string()
        };
        assert_eq!(pick(Modalities::TEXT), "b/any");
        assert_eq!(pick(Modalities::TEXT.with(Modality::Image)), "a/vision");
        assert!(Rule::first(&rules[..1], &seen()).is_none());
    }
}
