//! Who of the pool may be drawn, and who stands by for when those fail.

use crate::app::enrol::Trials;
use crate::app::live::Target;
use crate::app::prepare::asked::Asked;
use crate::app::prepare::pool::Pool;
use crate::arm::Arm;
use crate::candidates::{self, Refusal};
use crate::experiments::Enrolment;
use crate::server::explain::Refused;

/// Why an arm is no candidate that a finished experiment left out.
const RULED_OUT: &str = "left out by what an experiment came to; see /v1/experiments";
/// The same, of one whose place another took.
const REPLACED: &str =
    "its place was taken by what an experiment came to; it answers when others fail; see /v1/experiments";

/// Why an arm is not drawn whose circuits are open.
const RESTING: &str = "its circuit is open after failures; it is asked when all others fail";

/// Those of the pool that can and may take a request, by their places in it.
pub(super) struct Field {
    /// The draw is among these.
    pub(super) drawn: Vec<usize>,
    /// Asked when the drawn ones fail.
    pub(super) spare: Vec<usize>,
    /// May be drawn for the sake of an experiment only.
    guests: Vec<usize>,
    /// All others, with the reason.
    pub(super) refused: Vec<Refused>,
    /// How many of those could not have taken it, whatever it may cost.
    pub(super) unable: usize,
    /// Whether the prompt's length is why none can.
    pub(super) too_long: bool,
}

impl Field {
    /// The policy draws among the route's own models; fallbacks are asked only if none of those can.
    pub(super) fn of(asked: &Asked<'_>, pool: &Pool<'_>) -> Self {
        let filtered = pool.filter(asked);
        let eligible = &filtered.eligible;
        let within = |places: std::ops::Range<usize>| -> Vec<usize> {
            eligible
                .iter()
                .copied()
                .filter(|place| places.contains(place))
                .collect()
        };
        let guests = pool.guests.iter().copied();
        let mut field = Self {
            drawn: within(0..pool.own),
            spare: within(pool.own..pool.listed),
            guests: guests.filter(|guest| eligible.contains(guest)).collect(),
            unable: filtered
                .refused
                .iter()
                .filter(|refused| refused.reason.is_inability())
                .count(),
            too_long: is_too_long(&filtered.refused),
            refused: Vec::new(),
        };
        let refused = filtered
            .refused
            .into_iter()
            .map(|refused| (refused.arm, refused.reason.to_string()));
        field.refused = refused.chain(unknown(asked)).collect();
        if field.drawn.is_empty() {
            field.drawn.append(&mut field.spare);
        }
        field.keep_first_provider(asked, pool);
        field
    }

    /// A client that orders providers has the first of them that can serve asked first: the policy draws among its
    /// models only, and the others' wait behind them, the cheapest first where the order is silent.
    fn keep_first_provider(&mut self, asked: &Asked<'_>, pool: &Pool<'_>) {
        if asked.request.provider.order.is_empty() {
            return;
        }
        let rank = |place: &usize| asked.provider_rank(pool.served[*place]);
        let Some(first) = self.drawn.iter().map(rank).min() else {
            return;
        };
        let (kept, mut later): (Vec<usize>, Vec<usize>) =
            self.drawn.iter().partition(|place| rank(place) == first);
        later.append(&mut self.spare);
        later.sort_by_key(|place| (rank(place), pool.expected[*place].cost));
        (self.drawn, self.spare) = (kept, later);
    }

    /// The arms that an experiment can count on: those that may be drawn with or without it.
    pub(super) fn arms<'a>(&self, pool: &Pool<'a>) -> Vec<&'a Arm> {
        let places = self.drawn.iter().chain(&self.guests);
        places.map(|&place| pool.arm(place)).collect()
    }

    /// Lets in whom the experiments ask for, and leaves out whom finished ones ruled against.
    pub(super) fn heed(&mut self, trials: Trials<'_>, enrolment: Option<&Enrolment>, pool: &Pool<'_>) {
        let arm = |place: usize| pool.arm(place);
        let invited = trials.invited(&self.guests, arm, enrolment);
        self.spare.retain(|place| !invited.contains(place));
        self.drawn.extend(invited);
        let left = trials.left(&self.drawn, arm, enrolment);
        for &place in self.drawn.iter().filter(|place| !left.contains(place)) {
            let stands_in = trials.stands_in(arm(place));
            if stands_in {
                self.spare.push(place);
            }
            let why = if stands_in { REPLACED } else { RULED_OUT };
            self.refused.push((arm(place).id.clone(), why.to_owned()));
        }
        self.drawn = left;
    }

    /// Leaves those out of the draw who can be sent nothing now (`shut`), unless that is everybody. Else each request of
    /// an outage would be decided as if there were none: drawn for the one that is ill, answered by whoever stands next,
    /// and no lesson to anybody. What the request's experiment compares stays: an arm that fails fails its requests.
    pub(super) fn pass_over(
        &mut self,
        pool: &Pool<'_>,
        enrolment: Option<&Enrolment>,
        shut: impl Fn(usize) -> bool,
    ) {
        let compared = |place: usize| {
            enrolment.is_some_and(|enrolment| {
                let mut variants = enrolment.variants.iter();
                variants.any(|variant| variant.names(pool.arm(place)))
            })
        };
        let (resting, up): (Vec<usize>, Vec<usize>) = self
            .drawn
            .iter()
            .partition(|&&place| shut(place) && !compared(place));
        if up.is_empty() {
            return;
        }
        let why = |&place: &usize| (pool.arm(place).id.clone(), RESTING.to_owned());
        self.refused.extend(resting.iter().map(why));
        self.spare.extend(resting);
        self.drawn = up;
    }
}

/// Fallbacks of the client that nobody here knows: worth a word, but no reason to fail what another can answer.
fn unknown(asked: &Asked<'_>) -> impl Iterator<Item = Refused> {
    let fallbacks = asked.request.fallbacks.iter();
    fallbacks
        .filter(|id| !matches!(asked.live.resolve(id.as_str()), Some(Target::Arm(_))))
        .map(|id| (id.clone(), "is not a model of this router".to_owned()))
}

/// Whether the prompt's length is why no arm that may take the request can.
fn is_too_long(refused: &[candidates::Refused]) -> bool {
    let may = |refused: &&candidates::Refused| !matches!(refused.reason, Refusal::Provider | Refusal::Rule);
    let is_length = |refused: &candidates::Refused| matches!(refused.reason, Refusal::ContextWindow { .. });
    refused.iter().any(is_length) && refused.iter().filter(may).all(is_length)
}
