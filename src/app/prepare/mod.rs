//! From a request to a decision that can be carried out: what it names, what it holds, who can take it, what that
//! would cost, and who is drawn. Nothing is logged here, and called only where who serves is settled beforehand.

mod arrived;
mod asked;
mod choice;
mod field;
mod head_start;
mod plan;
mod pool;
mod refusal;
mod sight;
mod wishes;

use std::sync::Arc;
use std::time::Instant;

use crate::app::App;
use crate::app::late::Late;
use crate::app::live::Target;
use crate::app::outlook::{Look, Outlook};
use crate::app::pending::Account;
use crate::app::prepare::arrived::{Arrived, Facts};
use crate::app::prepare::asked::Asked;
use crate::app::prepare::choice::Choice;
use crate::app::prepare::field::Field;
use crate::app::prepare::head_start::{Begun, HeadStart};
use crate::app::prepare::plan::Order;
use crate::app::prepare::pool::Pool;
use crate::app::prepare::sight::Sight;
use crate::clock;
use crate::experiments::{Enrolment, Unit};
use crate::request::ChatRequest;
use crate::routing::Decided;
use crate::server::error::ApiError;
use crate::server::explain::Refused;

pub use head_start::Call;
pub use wishes::Wishes;

/// A decision, ready to be carried out.
pub struct Prepared {
    /// The decision.
    pub decided: Arc<Decided>,
    /// How to carry it out.
    pub call: Call,
    /// Arms that could not take the request, with the reason.
    pub refused: Vec<Refused>,
    /// The request's account; closed when this is dropped.
    pub account: Account,
    /// `name=arm` of the experiment it takes part in.
    pub experiment: Option<Arc<str>>,
    /// Its place in that experiment, for the log.
    pub enrolment: Option<Enrolment>,
    /// The episode or session it belongs to.
    pub episode: Option<Arc<str>>,
    /// What the look at its content came to.
    pub look: Look,
    /// Its estimates with their intervals, when they are wanted.
    pub outlook: Option<Outlook>,
    /// The embedding that did not come in time.
    pub late: Option<Late>,
}

/// Decides. Where who serves is settled whatever the words say, the call goes out first, and the provider works on it
/// meanwhile.
///
/// # Errors
/// An unknown model, content that nobody could take, a request that no arm can or may take.
pub async fn prepare(
    app: &App,
    request: &Arc<ChatRequest>,
    wishes: &Wishes,
    received: Instant,
) -> Result<Prepared, ApiError> {
    let facts = Facts::gather(app, request, wishes)?;
    let came = Came {
        app,
        request,
        wishes,
        received,
    };
    match head_start::settled(&came.met(&facts)?, &facts, received) {
        None => decide(came, facts, None).await,
        Some(plan) => HeadStart::take(came, facts, plan).await,
    }
}

/// A request that came.
#[derive(Clone, Copy)]
struct Came<'a> {
    app: &'a App,
    request: &'a Arc<ChatRequest>,
    wishes: &'a Wishes,
    received: Instant,
}

impl<'a> Came<'a> {
    fn met(self, facts: &'a Facts) -> Result<Arrived<'a>, ApiError> {
        Arrived::of(self.app, self.request, self.wishes, facts)
    }
}

/// Decides on a request that met `facts`. One whose call was `begun` never waits here.
async fn decide(came: Came<'_>, facts: Facts, begun: Option<Begun>) -> Result<Prepared, ApiError> {
    let Came {
        app,
        request,
        wishes,
        received,
    } = came;
    let arrived = came.met(&facts)?;
    let table = &facts.table;
    let embedded = matches!(arrived.target, Target::Route(route) if table.embeds(&route.name));
    let mut sight = Sight::of(request, &facts.features, embedded).await;
    // While other features are taken up, a request may have been looked at through the ones before.
    sight.features = facts.decider.versions.only(sight.features);
    let asked = Asked {
        arrived,
        sight: &sight,
    };

    // Who can take it, and what that would cost.
    let rule = asked.rule();
    let trials = asked.trials(table, rule);
    let pool = Pool::of(&asked, rule, trials);
    let mut field = Field::of(&asked, &pool);
    if field.drawn.is_empty() {
        return Err(refusal::refusal(&asked, &pool, &field));
    }

    // Whether it is part of an experiment, and what that and finished ones change.
    let enrolment = trials.and_then(|trials| {
        let unit = Unit {
            request: &facts.id,
            user: request.user.as_deref(),
            session: wishes.session.as_deref(),
        };
        trials.enrol(&unit, &field.arms(&pool), &asked.demands())
    });
    if let Some(trials) = trials {
        field.heed(trials, enrolment.as_ref(), &pool);
    }
    let moment = clock::monotonic();
    field.pass_over(&pool, enrolment.as_ref(), |place| {
        let served = pool.served[place];
        app.dispatcher
            .is_shut(&served.arm.id, &served.deployments, moment)
    });

    // Who is drawn.
    let way = trials.and_then(|trials| trials.way());
    let mut choice = Choice::among(&asked, &pool, &field, rule, way);
    choice.look_back(enrolment.as_ref(), &facts.features).await;
    let (drawn, enrolment) = choice.draw(enrolment);

    // What is to be done and kept.
    let look = choice.look(&drawn, field.unable);
    let outlook = wishes.outlook.then(|| choice.outlook());
    let order = Order::of(&asked, &pool, &field, &choice.offers, &drawn.decision);
    let decided = Arc::new(choice.decided(Arc::clone(&facts.id), drawn));
    let (call, account) = match begun {
        Some(begun) => (begun.call, begun.account),
        None => {
            let plan = order.plan(&asked, &pool, &decided, received);
            (Call::Planned(Box::new(plan)), facts.open_account(app))
        }
    };
    Ok(Prepared {
        decided,
        call,
        refused: field.refused,
        account,
        experiment: enrolment.as_ref().map(|enrolment| Arc::from(enrolment.header())),
        enrolment,
        episode: wishes.episode.clone(),
        look,
        outlook,
        late: sight.late,
    })
}
