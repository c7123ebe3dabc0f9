//! From a request to a decision that can be carried out: what it names, what it holds, who can take it, what that
//! would cost, and who is drawn. Nothing is called and nothing is logged here.

mod asked;
mod choice;
mod field;
mod plan;
mod pool;
mod refusal;
mod sight;
mod wishes;

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use crate::app::late::Late;
use crate::app::live::Target;
use crate::app::outlook::{Look, Outlook};
use crate::app::pending::Account;
use crate::app::prepare::asked::Asked;
use crate::app::prepare::choice::Choice;
use crate::app::prepare::field::Field;
use crate::app::prepare::plan::Order;
use crate::app::prepare::pool::Pool;
use crate::app::prepare::sight::Sight;
use crate::app::{App, money, purpose};
use crate::clock;
use crate::dispatch::Plan;
use crate::experiments::{Enrolment, Unit};
use crate::pricing;
use crate::request::ChatRequest;
use crate::routing::Decided;
use crate::server::error::ApiError;
use crate::server::explain::Refused;
use crate::server::models;

pub use wishes::Wishes;

/// A decision, ready to be carried out.
pub struct Prepared {
    /// The decision.
    pub decided: Arc<Decided>,
    /// How to carry it out.
    pub plan: Plan,
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

/// Decides.
///
/// # Errors
/// An unknown model, content that nobody could take, a request that no arm can or may take.
pub async fn prepare(
    app: &App,
    request: &Arc<ChatRequest>,
    wishes: &Wishes,
    received: Instant,
) -> Result<Prepared, ApiError> {
    // What it names and holds.
    let live = app.live.load_full();
    let Some(target) = live.resolve(&request.model) else {
        return Err(models::unknown(&live, &request.model));
    };
    purpose::check(target, request)?;
    let looking_at = app.features.load_full();
    let table = app.desk.table();
    let embedded = matches!(target, Target::Route(route) if table.embeds(&route.name));
    let mut sight = Sight::of(request, &looking_at, embedded).await?;

    // What it meets: what was learned, the conversation so far, what may be spent.
    let decider = app.learner.decider();
    // While other features are taken up, a request may have been looked at through the ones before.
    sight.features = decider.versions.only(sight.features);
    let corrections = app.learner.corrections();
    let conversation = app
        .sessions
        .look(request, wishes, live.config.sessions.warm, clock::wall());
    let name = match target {
        Target::Route(route) => &route.name,
        Target::Arm(_) => &request.model,
    };
    let standing = money::standing(app, request, wishes, name, clock::wall())?;
    let asked = Asked {
        app,
        live: &live,
        request,
        wishes,
        target,
        name,
        now: clock::wall(),
        sight: &sight,
        policy: &*decider.policy,
        corrections: &corrections,
        standing,
        conversation: conversation.as_ref(),
    };

    // Who can take it, and what that would cost.
    let rule = asked.rule();
    let trials = asked.trials(&table, rule);
    let pool = Pool::of(&asked, rule, trials);
    let mut field = Field::of(&asked, &pool);
    if field.drawn.is_empty() {
        return Err(refusal::refusal(&asked, &pool, &field));
    }

    // Whether it is part of an experiment, and what that and finished ones change.
    let id: Arc<str> = Arc::from(&*app.new_id().simple().encode_lower(&mut Uuid::encode_buffer()));
    let enrolment = trials.and_then(|trials| {
        let unit = Unit {
            request: &id,
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
    choice.look_back(enrolment.as_ref(), &looking_at).await;
    let (drawn, enrolment) = choice.draw(enrolment);

    // What is to be done and kept.
    let look = choice.look(&drawn, field.unable);
    let outlook = wishes.outlook.then(|| choice.outlook());
    let order = Order::of(&asked, &pool, &field, &choice.offers, &drawn.decision);
    let decided = Arc::new(choice.decided(id, drawn));
    let plan = order.plan(&asked, &pool, &decided, received);
    let units = pricing::units(&sight.content);
    let account = app.pending.open(Arc::clone(&decided), units, Arc::clone(&live));
    if let Some(conversation) = &conversation {
        account.ledger().note(conversation.place);
    }
    Ok(Prepared {
        decided,
        plan,
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
