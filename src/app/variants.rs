//! How each arm of an experiment chooses among the candidates of a request.

use crate::experiments::{FORMER, Variant};
use crate::policy::simple::Random;
use crate::policy::{Contexts, Pmf, Policy, Proposal};
use crate::routing::{self, Expected, Offer, Question};

/// A request with its candidates, ready to be decided in any way.
#[derive(Clone, Copy)]
pub struct Choosing<'a> {
    /// The router's own policy.
    pub policy: &'a dyn Policy,
    /// The request.
    pub question: &'a Question<'a>,
    /// What each of its offers is expected to use and cost.
    pub expected: &'a [Expected],
    /// The request as the former features saw it, where an arm goes by them.
    pub former: Option<Formerly<'a>>,
}

/// The router before the last change of what looks at prompts.
#[derive(Clone, Copy)]
pub struct Formerly<'a> {
    /// What had been learned by then.
    pub policy: &'a dyn Policy,
    /// The views of the request.
    pub contexts: Contexts<'a>,
    /// The request's category.
    pub category: Option<&'a str>,
}

impl Choosing<'_> {
    /// As the router does it.
    #[must_use]
    pub fn propose(&self) -> Proposal {
        routing::propose(self.policy, self.question, self.expected)
    }

    /// As `variant` does it; `base` is the router's own proposal. `None` if it cannot choose here: its models are no
    /// candidates, or what it goes by is not learned yet.
    #[must_use]
    pub fn by(&self, variant: &Variant, base: &Proposal) -> Option<Proposal> {
        let offers = self.question.offers;
        match variant {
            Variant::Current => Some(base.clone()),
            Variant::Model(model) => {
                let index = offers.iter().position(|offer| offer.arm.id == *model)?;
                Some(self.certain(index, base))
            }
            Variant::Family(_) => self.among(variant, base),
            Variant::Policy(name) => self.policy(name, base),
            Variant::MarginMilli(milli) => {
                let mut question = self.question.clone();
                question.demands.quality_margin = Some(f64::from(*milli) / 1000.0);
                Some(routing::propose(self.policy, &question, self.expected))
            }
            Variant::Features(view) if view == FORMER => self.formerly(),
            Variant::Features(view) => Some(self.seeing(view, base)),
            Variant::Categories(table) => {
                let model = self.question.category.and_then(|category| table.get(category));
                let Some(model) = model else {
                    return Some(base.clone());
                };
                let index = offers.iter().position(|offer| offer.arm.id == *model)?;
                Some(self.certain(index, base))
            }
        }
    }

    fn policy(&self, name: &str, base: &Proposal) -> Option<Proposal> {
        match name {
            "contextual" => Some(base.clone()),
            "static_mix" => routing::blind(self.policy, self.question, self.expected),
            "cheapest" => {
                let costs = self.expected.iter().enumerate();
                let (index, _) = costs.min_by_key(|(_, expected)| expected.cost)?;
                Some(self.certain(index, base))
            }
            "random" => Some(routing::propose(&Random, self.question, self.expected)),
            _ => None,
        }
    }

    /// As before the last change of what looks at prompts.
    fn formerly(&self) -> Option<Proposal> {
        let former = self.former?;
        let mut question = self.question.clone();
        (question.contexts, question.category) = (former.contexts, former.category);
        Some(routing::propose(former.policy, &question, self.expected))
    }

    /// With less of the prompt than is known.
    fn seeing(&self, view: &str, base: &Proposal) -> Proposal {
        let mut question = self.question.clone();
        match view {
            "text" => question.contexts.embedding = None,
            // By the embedding view's own statistics, where there is one: with both, the text view scores.
            "embedding" if question.contexts.embedding.is_some() => question.contexts.text = None,
            "none" => (question.contexts, question.category) = (Contexts::default(), None),
            _ => return base.clone(),
        }
        routing::propose(self.policy, &question, self.expected)
    }

    /// Among the models that the variant names alone.
    fn among(&self, variant: &Variant, base: &Proposal) -> Option<Proposal> {
        let named: Vec<usize> = (0..self.question.offers.len())
            .filter(|&index| variant.names(self.question.offers[index].arm))
            .collect();
        if named.is_empty() {
            return None;
        }
        let offers: Vec<Offer<'_>> = named
            .iter()
            .map(|&index| self.question.offers[index].clone())
            .collect();
        let expected: Vec<Expected> = named.iter().map(|&index| self.expected[index]).collect();
        let question = Question {
            offers: &offers,
            ..self.question.clone()
        };
        let proposal = routing::propose(self.policy, &question, &expected);
        let mut weights = vec![0.0; self.question.offers.len()];
        for (index, probability) in named.iter().zip(proposal.pmf.probabilities()) {
            weights[*index] = probability;
        }
        Some(Proposal {
            pmf: Pmf::from_weights(weights),
            ..base.clone()
        })
    }

    fn certain(&self, index: usize, base: &Proposal) -> Proposal {
        Proposal {
            pmf: Pmf::certain(index, self.question.offers.len()),
            ..base.clone()
        }
    }
}
