//! Conversations under way: which arm answered last, and what each arm has read of them.
//!
//! Kept in memory, bounded in number and by idleness. Providers forget a prompt within minutes, so a restart costs a
//! conversation its incumbent once and nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use crate::app::prepare::Wishes;
use crate::arm::ArmId;
use crate::config::{Objective, QualityRule, Route, SessionRule};
use crate::policy::Decision;
use crate::request::{Beginning, ChatRequest, RoutingExtras};
use crate::routing::{self, Continued, Expected, Offer};
use crate::units::UnixMs;

/// Beginnings that are remembered of a prompt.
const ENDS: usize = 3;
/// Arms of which a conversation remembers what they have read.
const MOST_ARMS: usize = 4;

/// Where a request stands in its conversation; kept with the request until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    key: u128,
    /// The whole prompt, then a few shorter beginnings of it: what is left when its last turns are edited.
    ends: [Option<Beginning>; ENDS],
}

/// A conversation that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Where this request stands in it.
    pub place: Place,
    /// The arm that answered last; `None` at the beginning.
    pub incumbent: Option<ArmId>,
    /// Tokens of this prompt that arms have read a short time ago, each by its own count.
    warm: Vec<(ArmId, u64)>,
}

impl Conversation {
    /// Tokens of this prompt that `arm` has read a short time ago.
    #[must_use]
    pub fn warm(&self, arm: &ArmId) -> u64 {
        self.warm
            .iter()
            .find(|(known, _)| known == arm)
            .map_or(0, |(_, tokens)| *tokens)
    }
}

#[derive(Clone, Debug)]
struct Turn {
    arm: ArmId,
    place: Place,
    tokens: u64,
    at: UnixMs,
}

/// All conversations. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Newest turn first, one for each arm.
    turns: Cache<u128, Arc<[Turn]>>,
    held: AtomicU64,
    switched: AtomicU64,
}

/// What is known of conversations, for `/v1/telemetry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SessionFigures {
    /// Conversations remembered, about.
    pub open: u64,
    /// Requests kept with their conversation's arm though another was drawn.
    pub held: u64,
    /// Requests that changed the arm of their conversation.
    pub switched: u64,
}

impl Sessions {
    /// Remembers conversations by `rule`.
    #[must_use]
    pub fn new(rule: &SessionRule) -> Self {
        Self(Arc::new(Inner {
            turns: Cache::builder()
                .max_capacity(rule.most)
                .time_to_idle(rule.ttl)
                .build(),
            held: AtomicU64::new(0),
            switched: AtomicU64::new(0),
        }))
    }

    /// The conversation of a request; `None` when it names none. An arm has read as much of the prompt as it was sent
    /// before, to where that was edited, and if it was no longer than `warm` ago. Prompts that have only their
    /// instructions in common are different conversations.
    #[must_use]
    pub fn look(
        &self,
        request: &ChatRequest,
        wishes: &Wishes,
        warm: Duration,
        now: UnixMs,
    ) -> Option<Conversation> {
        let session = wishes.session.as_deref()?;
        let beginnings = request.beginnings();
        let key = key(&wishes.client.0, request.user.as_deref(), session);
        let turns = self.0.turns.get(&key);
        let mut conversation = Conversation {
            place: Place {
                key,
                ends: std::array::from_fn(|back| beginnings.iter().rev().nth(back).copied()),
            },
            incumbent: None,
            warm: Vec::new(),
        };
        for turn in turns.iter().flat_map(|turns| turns.iter()) {
            let is_here = |end: &&Beginning| beginnings.get(end.messages) == Some(*end);
            let ends = turn.place.ends.iter().flatten();
            let (Some(common), Some(whole)) = (ends.clone().find(is_here), ends.clone().next()) else {
                continue;
            };
            if common.has_user {
                conversation.incumbent.get_or_insert_with(|| turn.arm.clone());
            }
            if now.since(turn.at) <= warm {
                let share =
                    u128::from(turn.tokens) * u128::from(common.bytes) / u128::from(whole.bytes.max(1));
                let tokens = u64::try_from(share).unwrap_or(turn.tokens);
                conversation.warm.push((turn.arm.clone(), tokens));
            }
        }
        Some(conversation)
    }

    /// `arm` has read a prompt of `tokens` and answered it.
    pub fn answered(&self, place: &Place, arm: &ArmId, tokens: u64, now: UnixMs) {
        let turn = Turn {
            arm: arm.clone(),
            place: *place,
            tokens,
            at: now,
        };
        let before = self.0.turns.get(&place.key);
        let others = before
            .iter()
            .flat_map(|turns| turns.iter())
            .filter(|turn| turn.arm != *arm)
            .cloned();
        let turns: Vec<Turn> = std::iter::once(turn).chain(others).take(MOST_ARMS).collect();
        self.0.turns.insert(place.key, turns.into());
    }

    /// Counts a request that was kept with its incumbent, or left it.
    pub fn decided(&self, held: bool, switched: bool) {
        self.0.held.fetch_add(u64::from(held), Ordering::Relaxed);
        self.0.switched.fetch_add(u64::from(switched), Ordering::Relaxed);
    }

    /// What is known.
    #[must_use]
    pub fn figures(&self) -> SessionFigures {
        self.0.turns.run_pending_tasks();
        SessionFigures {
            open: self.0.turns.entry_count(),
            held: self.0.held.load(Ordering::Relaxed),
            switched: self.0.switched.load(Ordering::Relaxed),
        }
    }
}

/// What the decision is to the conversation that it goes on with; `None` at its beginning. Under a route, `hold`, the
/// draw is held to the incumbent unless a switch is worth it.
pub fn go_on(
    conversation: &Conversation,
    hold: Option<&Route>,
    routing: &RoutingExtras,
    decision: &mut Decision,
    offers: &[Offer<'_>],
    expected: &[Expected],
) -> Option<Continued> {
    let incumbent = conversation.incumbent.clone()?;
    let home = offers.iter().position(|offer| offer.arm.id == incumbent);
    let warm: Vec<u64> = offers
        .iter()
        .map(|offer| conversation.warm(&offer.arm.id))
        .collect();
    // An incumbent that cannot take this request is left without a question.
    let switches = home.map_or_else(
        || vec![None; offers.len()],
        |home| routing::switches(offers, expected, &warm, home),
    );
    let held = match (home, hold) {
        (Some(home), Some(route)) => routing::stay(decision, home, &switches, margin(route, routing)),
        _ => false,
    };
    Some(Continued {
        incumbent,
        prefix_tokens: warm.get(decision.chosen).copied().unwrap_or(0),
        switches,
        held,
    })
}

/// How far below another arm's expected quality the incumbent is still good enough. An explicit floor speaks for
/// itself.
fn margin(route: &Route, routing: &RoutingExtras) -> f64 {
    /// Where the objective has no margin of its own.
    const USUAL: f64 = 0.02;
    match route.objective {
        _ if routing.quality_floor.is_some() => f64::INFINITY,
        Objective::CheapestCapable {
            quality: QualityRule::Floor(_),
            ..
        } => routing.quality_margin.unwrap_or(f64::INFINITY),
        Objective::CheapestCapable {
            quality: QualityRule::Margin(margin),
            ..
        } => routing.quality_margin.unwrap_or(margin),
        Objective::MaxQuality | Objective::Weighted { .. } => routing.quality_margin.unwrap_or(USUAL),
    }
}

/// A conversation's name belongs to the client's key and user that use it.
fn key(client: &str, user: Option<&str>, session: &str) -> u128 {
    let mut hash = Xxh3::new();
    for text in [client, user.unwrap_or_default(), session] {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::parse;
    use crate::server::auth::Client;

    const WARM: Duration = Duration::from_secs(300);

    fn look(sessions: &Sessions, client: &str, messages: &[&str], at: i64) -> Conversation {
        let messages: Vec<_> = messages
            .iter()
            .enumerate()
            .map(|(index, text)| {
                let role = ["user", "assistant"][index % 2];
                serde_json::json!({"role": role, "content": text})
            })
            .collect();
        let body = serde_json::json!({"model": "auto", "messages": messages, "session_id": "s"});
        let request = parse(body.to_string().into()).unwrap();
        let client = Client(client.into());
        let wishes = Wishes::read(&request, &http::HeaderMap::new(), client).unwrap();
        sessions.look(&request, &wishes, WARM, UnixMs(at)).unwrap()
    }

    fn sessions() -> Sessions {
        Sessions::new(&SessionRule {
            most: 100,
            ttl: Duration::from_secs(60),
            warm: WARM,
        })
    }

    #[test]
    fn a_conversation_knows_who_has_read_what_and_forgets_when_it_is_another() {
        let sessions = sessions();
        let (a, b) = (ArmId::new("p/a"), ArmId::new("p/b"));
        let first = look(&sessions, "k", &["hi"], 0);
        assert_eq!((first.incumbent.as_ref(), first.warm(&a)), (None, 0));
        sessions.answered(&first.place, &a, 50, UnixMs(1_000));
        let second = look(&sessions, "k", &["hi", "hello", "more"], 2_000);
        assert_eq!((second.incumbent.as_ref(), second.warm(&a)), (Some(&a), 50));
        sessions.answered(&second.place, &b, 80, UnixMs(3_000));
        let third = look(&sessions, "k", &["hi", "hello", "more", "yes", "end"], 4_000);
        assert_eq!(third.incumbent.as_ref(), Some(&b));
        assert_eq!(
            (third.warm(&a), third.warm(&b)),
            (50, 80),
            "the first arm knows the beginning"
        );
        // The last question is put in another way: what was before it is read, 7 of 11 bytes.
        let edited = look(&sessions, "k", &["hi", "hello", "less"], 4_000);
        assert_eq!(edited.incumbent.as_ref(), Some(&b));
        assert_eq!((edited.warm(&a), edited.warm(&b)), (50, 80 * 7 / 11));
        // Another client's session of the same name, and another conversation under it, are nobody's.
        assert_eq!(
            look(&sessions, "other", &["hi", "hello", "more"], 4_000).incumbent,
            None
        );
        assert_eq!(
            look(&sessions, "k", &["ho", "hello", "more"], 4_000).incumbent,
            None
        );
    }

    #[test]
    fn what_was_read_long_ago_is_cold_but_the_incumbent_stays() {
        let sessions = sessions();
        let a = ArmId::new("p/a");
        let first = look(&sessions, "k", &["hi"], 0);
        sessions.answered(&first.place, &a, 50, UnixMs(0));
        let later = look(&sessions, "k", &["hi", "hello", "more"], 300_001);
        assert_eq!((later.incumbent.as_ref(), later.warm(&a)), (Some(&a), 0));
    }

    #[test]
    fn the_number_of_conversations_is_bounded() {
        let sessions = sessions();
        for number in 0..1_000 {
            let place = Place {
                key: number,
                ends: [None; ENDS],
            };
            sessions.answered(&place, &ArmId::new("p/a"), 1, UnixMs(0));
        }
        assert!(sessions.figures().open <= 100);
    }
}
