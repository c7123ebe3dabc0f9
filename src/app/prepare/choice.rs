//! The draw: by the policy, by the arm of an experiment, or by the way that one has shipped; held to the conversation
//! that the request goes on with.

use std::sync::Arc;

use crate::app::enrol::{self, Traits};
use crate::app::features::FeatureSet;
use crate::app::former::{Former, FormerLook};
use crate::app::outlook::{Look, Outlook, saved};
use crate::app::prepare::asked::Asked;
use crate::app::prepare::field::Field;
use crate::app::prepare::pool::Pool;
use crate::app::sessions;
use crate::app::variants::{Choosing, Formerly};
use crate::candidates::Rule;
use crate::experiments::{Enrolment, FORMER, Variant};
use crate::policy::simple::Fixed;
use crate::policy::{self, Decision, Policy};
use crate::pricing::{self, ContentKind};
use crate::routing::{self, Continued, Decided, Expected, Offer};

/// Among whom is drawn, and by what.
pub(super) struct Choice<'a> {
    asked: &'a Asked<'a>,
    /// Who may be drawn.
    pub(super) offers: Vec<Offer<'a>>,
    /// What a call on each is expected to use and cost.
    expected: Vec<Expected>,
    /// The rule that names them.
    rule: Option<&'a Rule>,
    /// The way of choosing that a finished experiment has shipped.
    way: Option<&'a Variant>,
    /// What the former features saw, where an experiment asks for them.
    former: Option<(Arc<Former>, FormerLook)>,
}

/// Who was drawn.
pub(super) struct Drawn {
    pub(super) decision: Decision,
    /// How it was made.
    strategy: Arc<str>,
    /// How it stands to the conversation that it goes on with.
    session: Option<Continued>,
}

impl<'a> Choice<'a> {
    /// A choice among the drawn ones of `field`.
    pub(super) fn among(
        asked: &'a Asked<'a>,
        pool: &Pool<'a>,
        field: &Field,
        rule: Option<&'a Rule>,
        way: Option<&'a Variant>,
    ) -> Self {
        let drawn = field.drawn.iter();
        Self {
            asked,
            rule,
            offers: drawn.clone().map(|&place| pool.offers[place].clone()).collect(),
            expected: drawn.map(|&place| pool.expected[place]).collect(),
            way,
            former: None,
        }
    }

    /// Has the former features look at the request, where an arm of its experiment, or the way that one has shipped,
    /// goes by them.
    pub(super) async fn look_back(&mut self, enrolment: Option<&Enrolment>, features: &FeatureSet) {
        let by_former = |variant: &Variant| matches!(variant, Variant::Features(view) if view == FORMER);
        let mut variants = enrolment
            .into_iter()
            .flat_map(|enrolment| &enrolment.variants)
            .chain(self.way);
        if variants.any(by_former)
            && let Some(former) = self.asked.app.former.load_full()
        {
            let look = former.look(self.asked.request, features).await;
            self.former = Some((former, look));
        }
    }

    /// Draws. An experiment that cannot decide the request is left; else its part in it comes back.
    pub(super) fn draw(&self, enrolment: Option<Enrolment>) -> (Drawn, Option<Enrolment>) {
        let settled = enrolment.and_then(|mut enrolment| Some((self.settle(&mut enrolment)?, enrolment)));
        let (mut decision, enrolment) = match settled {
            Some((decision, enrolment)) => (decision, Some(enrolment)),
            None => (self.choose(), None),
        };
        let session = self.asked.conversation.and_then(|conversation| {
            let hold = self.asked.route().filter(|_| enrolment.is_none());
            let routing = &self.asked.request.routing;
            sessions::go_on(
                conversation,
                hold,
                routing,
                &mut decision,
                &self.offers,
                &self.expected,
            )
        });
        let strategy = match (&enrolment, &session) {
            (Some(_), _) => "experiment",
            (None, Some(session)) if session.held => "session",
            (None, _) => self.strategy(&decision),
        };
        let drawn = Drawn {
            strategy: Arc::from(strategy),
            decision,
            session,
        };
        (drawn, enrolment)
    }

    /// Asks the policy, or goes the way that an experiment has shipped; a model that the client names itself is
    /// certain.
    fn choose(&self) -> Decision {
        let fixed;
        let policy: &dyn Policy = match self.asked.route() {
            Some(_) => self.asked.policy,
            None => {
                fixed = Fixed::new(self.offers[0].arm.id.clone());
                &fixed
            }
        };
        let question = self.asked.question(&self.offers);
        let Some(way) = self.way else {
            let app = self.asked.app;
            return app.draw(|rng| routing::decide(policy, &question, &self.expected, rng));
        };
        let choosing = Choosing {
            policy,
            question: &question,
            expected: &self.expected,
            former: self.formerly(),
        };
        let base = choosing.propose();
        let proposal = choosing.by(way, &base).unwrap_or(base);
        self.asked.app.draw(|rng| policy::draw(proposal, rng))
    }

    /// The decision of the experiment that the request is in; `None` if it cannot be made.
    fn settle(&self, enrolment: &mut Enrolment) -> Option<Decision> {
        let asked = self.asked;
        let choosing = Choosing {
            policy: asked.policy,
            question: &asked.question(&self.offers),
            expected: &self.expected,
            former: self.formerly(),
        };
        let traits = Traits {
            input_tokens: self.offers.first().map_or(0, |offer| offer.input_tokens),
            category: asked.category(),
            language: asked.content.language,
            tenant: (!asked.live.keys.is_open()).then_some(&*asked.wishes.client.0),
        };
        asked
            .app
            .draw(|rng| enrol::settle(enrolment, &choosing, &traits, rng))
    }

    /// How a decision was made that neither an experiment nor a conversation had a part in.
    fn strategy(&self, decision: &Decision) -> &'static str {
        match (self.asked.route(), self.rule) {
            (None, _) => "named",
            (Some(_), Some(_)) if decision.pmf.len() == 1 => "rule",
            _ => decision.strategy.as_str(),
        }
    }

    fn formerly(&self) -> Option<Formerly<'_>> {
        let (former, look) = self.former.as_ref()?;
        let named = self.asked.request.routing.category.as_deref();
        Some(Formerly {
            policy: former.policy(self.asked.policy),
            contexts: look.contexts(),
            category: named.or(Some(&*look.category)),
        })
    }

    /// What the look at the request came to, once an arm is drawn. `unable` others could not have taken it.
    pub(super) fn look(&self, drawn: &Drawn, unable: usize) -> Look {
        let chosen = drawn.decision.chosen;
        Look {
            took: self.asked.took,
            kind: ContentKind::of(self.offers[chosen].arm, self.asked.content),
            saved: saved(&self.expected, chosen),
            unable,
        }
    }

    /// The estimates of those who may be drawn, with their intervals.
    pub(super) fn outlook(&self) -> Outlook {
        let asked = self.asked;
        let question = asked.question(&self.offers);
        Outlook::of(
            asked.policy,
            &question,
            &self.expected,
            asked.corrections,
            asked.content,
        )
    }

    /// The decision as the log and the learner need it.
    pub(super) fn decided(self, id: Arc<str>, drawn: Drawn) -> Decided {
        let asked = self.asked;
        let content = asked.content;
        let arm = self.offers[drawn.decision.chosen].arm;
        Decided {
            id,
            at: asked.now,
            route: Arc::from(asked.name),
            category: asked.sight.category.clone(),
            arms: self.offers.iter().map(|offer| offer.arm.id.clone()).collect(),
            latency_ms: self.offers.iter().map(|offer| offer.latency_ms).collect(),
            expected: self.expected,
            strategy: drawn.strategy,
            input_tokens: u32::try_from(pricing::raw_input_tokens(arm, content)).unwrap_or(u32::MAX),
            decision: drawn.decision,
            features: asked.sight.features.clone(),
            session: drawn.session,
        }
    }
}
