//! Which of an arm's deployments takes a call: the one that holds the conversation's prompt cache, else the less
//! loaded of two drawn at random.

use std::time::{Duration, Instant};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::request::{ChatRequest, Part, Role};

/// Time constant of the forgetting.
const TAU: Duration = Duration::from_secs(10);
/// What an unseen deployment is taken to need. Zero would send it every request at once.
pub(super) const UNSEEN: Duration = Duration::from_millis(500);
/// Below this, what tells two estimates apart is scheduling noise, for which no prompt cache should be given up.
const NOISE: Duration = Duration::from_millis(50);
/// The deployment that holds the cache is left when its load is this many times that of the best other one.
const AFFINITY_LOAD: f64 = 4.0;

/// A moving average of the time to first token that *jumps* to any larger value and forgets it with a time constant
/// of ten seconds (Finagle's peak EWMA): slow to trust, quick to doubt.
#[derive(Clone, Copy, Debug)]
pub struct PeakEwma {
    /// Seconds.
    cost: f64,
    /// When something was last seen; at first, since when nothing was.
    stamp: Instant,
    seen: bool,
}

impl PeakEwma {
    /// Nothing has been seen `now`.
    #[must_use]
    pub const fn unseen(now: Instant) -> Self {
        Self {
            cost: UNSEEN.as_millis() as f64 / 1e3,
            stamp: now,
            seen: false,
        }
    }

    /// A first token came after `ttft`.
    pub fn observe(&mut self, now: Instant, ttft: Duration) {
        let ttft = ttft.as_secs_f64();
        self.cost = if self.seen && ttft < self.cost {
            let keep = self.keep(now);
            self.cost * keep + ttft * (1.0 - keep)
        } else {
            ttft
        };
        self.stamp = now;
        self.seen = true;
    }

    /// Nothing came for `waited`, and then the call was given up: at least that long.
    pub fn observe_at_least(&mut self, now: Instant, waited: Duration) {
        if waited > self.estimate() {
            self.observe(now, waited);
        }
    }

    /// The estimate.
    #[must_use]
    pub fn estimate(&self) -> Duration {
        Duration::from_secs_f64(self.cost)
    }

    /// The estimate, forgotten with the same time constant while nothing is observed; `None` before the first.
    #[must_use]
    pub fn faded(&self, now: Instant) -> Option<Duration> {
        self.seen
            .then(|| Duration::from_secs_f64(self.cost * self.keep(now)))
    }

    /// The estimate in milliseconds, once anything was seen.
    #[must_use]
    pub fn seen_ms(&self) -> Option<f64> {
        self.seen.then_some(self.cost * 1e3)
    }

    /// Where it stands beside others, with `in_flight` calls.
    #[must_use]
    pub fn standing(&self, now: Instant, in_flight: u32) -> Standing {
        Standing {
            estimate: self.estimate(),
            faded: self.faded(now).unwrap_or_default(),
            in_flight,
        }
    }

    fn keep(&self, now: Instant) -> f64 {
        let idle = now.saturating_duration_since(self.stamp);
        (-idle.as_secs_f64() / TAU.as_secs_f64()).exp()
    }
}

/// A deployment as the balance sees it.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    estimate: Duration,
    faded: Duration,
    in_flight: u32,
}

/// Seconds of work queued at each if one more call is sent there. What nothing renews is forgotten, or whoever was
/// slow once would never be asked again; but no further than to the best one's estimate, or all calls would go to
/// whoever was left alone for longest. One that was never asked is taken to be like the best.
#[must_use]
pub fn loads(standings: &[Standing]) -> Vec<f64> {
    let estimates = standings.iter().map(|standing| standing.estimate);
    let best = estimates.min().unwrap_or_default();
    let load = |standing: &Standing| {
        standing.faded.max(best).max(NOISE).as_secs_f64() * (f64::from(standing.in_flight) + 1.0)
    };
    standings.iter().map(load).collect()
}

/// What keeps a conversation together at one deployment, so that its prompt cache is found again: the client's own
/// cache key, else its session, else the words the conversation began with.
#[must_use]
pub fn affinity(request: &ChatRequest) -> u64 {
    if let Some(key) = request.prompt_cache_key.as_ref().or(request.session_id.as_ref()) {
        return xxh3_64(key.as_bytes());
    }
    let mut hash = 0;
    for message in &request.messages {
        for part in &message.parts {
            if let Part::Text(text) = part {
                hash = xxh3_64_with_seed(text.as_bytes(), hash);
            }
        }
        if message.role == Role::User {
            break;
        }
    }
    hash
}

/// Picks among `options`, each a name and a load, the index to use. Rendezvous hashing (highest random weight) names
/// the deployment that should hold the cache; when that one is overloaded, power of two choices. `draws` are uniform
/// in [0,1). `None` only for no options.
#[must_use]
pub fn choose(options: &[(&str, f64)], affinity: u64, draws: [f64; 2]) -> Option<usize> {
    if options.len() < 2 {
        return (!options.is_empty()).then_some(0);
    }
    let weight = |name: &str| xxh3_64_with_seed(name.as_bytes(), affinity);
    let home = (0..options.len()).max_by_key(|&index| weight(options[index].0))?;
    let best_other = options
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != home)
        .map(|(_, option)| option.1)
        .fold(f64::INFINITY, f64::min);
    if options[home].1 <= AFFINITY_LOAD * best_other {
        return Some(home);
    }
    let first = index_of(draws[0], options.len());
    let second = (first + 1 + index_of(draws[1], options.len() - 1)) % options.len();
    Some(if options[second].1 < options[first].1 {
        second
    } else {
        first
    })
}

fn index_of(draw: f64, length: usize) -> usize {
    ((draw * length as f64) as usize).min(length - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn jumps_up_at_once_and_comes_down_slowly() {
        let start = crate::clock::monotonic();
        let mut ewma = PeakEwma::unseen(start);
        ewma.observe(start, Duration::from_secs(1));
        ewma.observe(start, Duration::from_secs(5));
        assert_eq!(ewma.estimate(), Duration::from_secs(5));
        // After one time constant: 5/e + 1 (1 - 1/e) = 1 + 4/e.
        ewma.observe(start + TAU, Duration::from_secs(1));
        let expected = 1.0 + 4.0 * (-1.0_f64).exp();
        assert!((ewma.estimate().as_secs_f64() - expected).abs() < 1e-6);
    }

    #[test]
    fn a_cancelled_wait_only_ever_raises_the_estimate() {
        let now = crate::clock::monotonic();
        let mut ewma = PeakEwma::unseen(now);
        ewma.observe(now, Duration::from_secs(2));
        ewma.observe_at_least(now, Duration::from_secs(1));
        assert_eq!(ewma.estimate(), Duration::from_secs(2));
        ewma.observe_at_least(now, Duration::from_secs(3));
        assert_eq!(ewma.estimate(), Duration::from_secs(3));
    }

    #[test]
    fn fades_while_nothing_is_sent() {
        let start = crate::clock::monotonic();
        let mut ewma = PeakEwma::unseen(start);
        assert_eq!(ewma.faded(start), None);
        ewma.observe(start, Duration::from_secs(5));
        let later = ewma.faded(start + TAU).unwrap().as_secs_f64();
        assert!((later - 5.0 * (-1.0_f64).exp()).abs() < 1e-6, "{later}");
        assert_eq!(ewma.estimate(), Duration::from_secs(5));
    }

    #[test]
    fn an_unseen_deployment_is_not_stampeded() {
        let now = crate::clock::monotonic();
        let load = |in_flight| loads(&[PeakEwma::unseen(now).standing(now, in_flight)])[0];
        assert!(load(0) > 0.0);
        assert!(load(9) > 9.0 * load(0));
        // Beside one that answers in 80 ms it takes its share, and no more.
        let mut quick = PeakEwma::unseen(now);
        quick.observe(now, Duration::from_millis(80));
        let unseen = PeakEwma::unseen(now);
        let beside = |in_flight| loads(&[unseen.standing(now, in_flight), quick.standing(now, 0)]);
        assert_eq!(beside(0), [0.08, 0.08]);
        assert!((beside(4)[0] - 0.4).abs() < 1e-9);
    }

    #[test]
    fn who_was_slow_once_is_asked_again_as_if_it_were_like_the_best() {
        let start = crate::clock::monotonic();
        let (mut slow, mut quick) = (PeakEwma::unseen(start), PeakEwma::unseen(start));
        slow.observe(start, Duration::from_secs(5));
        quick.observe(start, Duration::from_millis(50));
        let at =
            |now: Instant, in_flight: u32| loads(&[slow.standing(now, in_flight), quick.standing(now, 0)]);
        assert_eq!(at(start, 0), [5.0, 0.05]);
        // After one time constant 5/e; at last the best one's estimate and no less, so that calls share it out.
        let later = at(start + TAU, 0);
        assert!((later[0] - 5.0 * (-1.0_f64).exp()).abs() < 1e-6, "{later:?}");
        assert_eq!(at(start + 20 * TAU, 0), [0.05, 0.05]);
        assert_eq!(at(start + 20 * TAU, 3), [0.2, 0.05]);
    }

    #[test]
    fn an_overloaded_home_is_left_for_the_lighter_of_two() {
        let names = ["a", "b", "c"];
        let home = choose(&names.map(|name| (name, 1.0)), 7, [0.0; 2]).unwrap();
        let mut loads = names.map(|name| (name, 1.0));
        loads[home].1 = 100.0;
        for draw in [0.0, 0.2, 0.4, 0.6, 0.8] {
            for other in [0.0, 0.3, 0.6, 0.9] {
                assert_ne!(choose(&loads, 7, [draw, other]), Some(home));
            }
        }
    }

    proptest! {
        /// Taking a deployment away moves only the conversations that lived there.
        #[test]
        fn rendezvous_moves_only_what_it_must(affinity: u64, gone in 0_usize..4) {
            let names = ["a", "b", "c", "d"];
            let all: Vec<_> = names.iter().map(|name| (*name, 1.0)).collect();
            let before = names[choose(&all, affinity, [0.5; 2]).unwrap()];
            let rest: Vec<_> = all.iter().copied().filter(|(name, _)| *name != names[gone]).collect();
            let after = rest[choose(&rest, affinity, [0.5; 2]).unwrap()].0;
            prop_assert!(before == names[gone] || before == after);
        }
    }
}
