//! One request with everything that it is decided by.

use std::ops::Deref;

use crate::app::enrol::Trials;
use crate::app::prepare::arrived::Arrived;
use crate::app::prepare::sight::Sight;
use crate::candidates::{Rule, Seen};
use crate::experiments::Table;
use crate::policy::Contexts;
use crate::pricing;
use crate::routing::{Offer, Question};

/// A request whose words were looked at.
pub(super) struct Asked<'a> {
    pub(super) arrived: Arrived<'a>,
    pub(super) sight: &'a Sight,
}

impl<'a> Deref for Asked<'a> {
    type Target = Arrived<'a>;

    fn deref(&self) -> &Arrived<'a> {
        &self.arrived
    }
}

impl<'a> Asked<'a> {
    /// The prompt's category.
    pub(super) fn category(&self) -> Option<&'a str> {
        self.sight.category.as_deref()
    }

    /// The first rule of the route that matches.
    pub(super) fn rule(&self) -> Option<&'a Rule> {
        let content = self.content;
        Rule::first(
            &self.route()?.rules,
            &Seen {
                modalities: content.modalities,
                category: self.category(),
                input_tokens: content.text.tokens,
                tools: content.tools > 0,
                structured_output: content.structured_output,
                code: content.code,
                language: content.language,
                headers: &self.wishes.headers,
                tags: &self.request.metadata,
            },
        )
    }

    /// The experiments that may concern it: those of its route, unless a `rule` has settled who serves.
    pub(super) fn trials(&self, table: &'a Table, rule: Option<&Rule>) -> Option<Trials<'a>> {
        let route = self.route().filter(|_| rule.is_none() && !table.is_empty())?;
        Some(Trials {
            table,
            route: &route.name,
            category: self.category(),
        })
    }

    /// What the policy is asked about `offers`.
    pub(super) fn question<'q>(&'q self, offers: &'q [Offer<'q>]) -> Question<'q> {
        Question {
            route: self.route().map_or("", |route| &route.name),
            contexts: Contexts {
                text: Some(&self.sight.features.text),
                embedding: self.sight.features.embedding.as_deref(),
                words: self.sight.features.words.buckets(),
            },
            category: self.category(),
            offers,
            units: pricing::units(self.content),
            max_output_tokens: self.request.max_output_tokens,
            demands: self.demands(),
        }
    }
}
