use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::pricing::budget::Period;

fn at(text: &str) -> UnixMs {
    UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond())
}

fn usd(dollars: f64) -> Usd {
    Usd::from_dollars(dollars).unwrap()
}

fn rule(scope: Scope, limit: f64, on_exhausted: OnExhausted) -> BudgetRule {
    BudgetRule {
        name: "b".into(),
        scope,
        subject: None,
        limit: usd(limit),
        period: Period::Day,
        zone: TimeZone::UTC,
        on_exhausted,
    }
}

const NOON: &str = "2026-11-20T12:00:00Z";

#[test]
fn reserved_money_is_not_spent_twice() {
    let budgets = Budgets::new(vec![rule(Scope::All, 1.0, OnExhausted::Reject)]);
    let (now, parties) = (at(NOON), Parties::default());
    let first = budgets.reserve(now, &parties, usd(0.6)).unwrap();
    let refused = budgets.reserve(now, &parties, usd(0.6)).unwrap_err();
    assert_eq!(refused.left, usd(0.4));
    assert_eq!(refused.renews, at("2026-11-21T00:00:00Z"));
    drop(first);
    assert!(
        budgets.reserve(now, &parties, usd(0.6)).is_ok(),
        "a cancelled request gives it back"
    );
}

#[test]
fn what_was_booked_stays_and_the_rest_goes_back() {
    let budgets = Budgets::new(vec![rule(Scope::All, 1.0, OnExhausted::Reject)]);
    let (now, parties) = (at(NOON), Parties::default());
    let hold = budgets.reserve(now, &parties, usd(0.5)).unwrap();
    hold.book(usd(0.1), &"d".into(), 1);
    hold.book(usd(0.05), &"d".into(), 1);
    let row = budgets.rows(now).remove(0);
    assert_eq!((row.spent_usd, row.reserved_usd), (usd(0.15), usd(0.35)));
    drop(hold);
    let row = budgets.rows(now).remove(0);
    assert_eq!(
        (row.spent_usd, row.reserved_usd, row.left_usd),
        (usd(0.15), Usd::ZERO, usd(0.85))
    );
    let dear = budgets.reserve(now, &parties, usd(0.1)).unwrap();
    dear.book(usd(0.3), &"d".into(), 1);
    drop(dear);
    let row = budgets.rows(now).remove(0);
    assert_eq!(
        (row.spent_usd, row.reserved_usd, row.requests),
        (usd(0.45), Usd::ZERO, 2)
    );
}

#[test]
fn a_refused_request_reserves_nothing_anywhere() {
    let mut user = rule(Scope::User, 0.1, OnExhausted::Reject);
    user.name = "user".into();
    let budgets = Budgets::new(vec![rule(Scope::All, 1.0, OnExhausted::Reject), user]);
    let parties = Parties {
        user: Some("ada"),
        ..Parties::default()
    };
    let refused = budgets.reserve(at(NOON), &parties, usd(0.2)).unwrap_err();
    assert_eq!(
        (refused.budget.as_str(), refused.subject.as_str()),
        ("user", "ada")
    );
    assert!(
        budgets
            .rows(at(NOON))
            .iter()
            .all(|row| row.reserved_usd == Usd::ZERO)
    );
}

#[test]
fn each_party_has_its_own_account() {
    let budgets = Budgets::new(vec![rule(Scope::Tag("team".into()), 1.0, OnExhausted::Reject)]);
    let now = at(NOON);
    let tags = |team: &str| vec![("team".to_owned(), team.to_owned())];
    let (red, blue) = (tags("red"), tags("blue"));
    let of = |tags| Parties {
        tags,
        ..Parties::default()
    };
    budgets
        .reserve(now, &of(&red), usd(1.0))
        .unwrap()
        .book(usd(1.0), &"d".into(), 1);
    assert!(budgets.standing(now, &of(&red)).is_err());
    assert!(budgets.standing(now, &of(&blue)).unwrap().under_budget());
    assert!(
        !budgets.standing(now, &of(&[])).unwrap().under_budget(),
        "no tag, no budget"
    );
}

#[test]
fn a_spent_budget_falls_back_to_the_cheapest_if_it_says_so() {
    let budgets = Budgets::new(vec![rule(Scope::All, 1.0, OnExhausted::Cheapest)]);
    let (now, parties) = (at(NOON), Parties::default());
    assert!(!budgets.standing(now, &parties).unwrap().cheapest_only());
    budgets
        .reserve(now, &parties, usd(1.5))
        .unwrap()
        .book(usd(1.0), &"d".into(), 1);
    let standing = budgets.standing(now, &parties).unwrap();
    assert!(standing.cheapest_only());
    assert_eq!((standing.target, standing.most), (Some(Usd::ZERO), None));
}

#[test]
fn it_renews_at_midnight_of_its_own_clock() {
    let mut berlin = rule(Scope::All, 1.0, OnExhausted::Reject);
    berlin.zone = TimeZone::get("Europe/Berlin").unwrap();
    let budgets = Budgets::new(vec![berlin]);
    let parties = Parties::default();
    budgets
        .reserve(at(NOON), &parties, usd(1.0))
        .unwrap()
        .book(usd(1.0), &"d".into(), 1);
    assert!(budgets.standing(at("2026-11-20T22:59:59Z"), &parties).is_err());
    assert!(budgets.standing(at("2026-11-20T23:00:00Z"), &parties).is_ok());
}

#[test]
fn accounts_survive_a_restart_without_their_reservations() {
    let rules = || vec![rule(Scope::All, 1.0, OnExhausted::Reject)];
    let (now, parties) = (at(NOON), Parties::default());
    let before = Budgets::new(rules());
    let hold = before.reserve(now, &parties, usd(0.5)).unwrap();
    hold.book(usd(0.2), &"a".into(), 1);
    before.begin_save();
    let saved = before.changed(7);
    assert!(before.changed(7).is_empty(), "nothing has changed since");
    let json = serde_json::to_string(&saved).unwrap();
    let after = Budgets::new(rules());
    after.restore(serde_json::from_str(&json).unwrap());
    let row = after.rows(now).remove(0);
    assert_eq!(
        (row.spent_usd, row.reserved_usd, row.requests),
        (usd(0.2), Usd::ZERO, 1)
    );
    before.not_saved(&saved);
    assert_eq!(before.changed(7).len(), 1);
}

/// What the log has and the saved accounts lack is booked once, whatever order calls ended in.
#[test]
fn a_crash_forgets_nothing_and_counts_nothing_twice() {
    let rules = || vec![rule(Scope::All, 100.0, OnExhausted::Reject)];
    let (now, parties) = (at(NOON), Parties::default());
    let names: Vec<Arc<str>> = (0..40).map(|call| Arc::from(format!("d{call}"))).collect();
    // The log gets its entries a little later than the account; the save falls into the middle.
    for saved_after in 0..40usize {
        for lag in [0usize, 1, 3] {
            let before = Budgets::new(rules());
            let mut saved = Vec::new();
            for (call, name) in names.iter().enumerate() {
                // Saves follow one another; the last one but one began eight calls before.
                if call == saved_after || call + 8 == saved_after {
                    before.begin_save();
                }
                before
                    .reserve(now, &parties, usd(0.5))
                    .unwrap()
                    .book(usd(0.1), name, 1);
                if call == (saved_after + 2).min(39) {
                    // Entries 1..=n of the log are durable: the calls before the save but for the laggards.
                    let durable = saved_after.saturating_sub(lag) as i64;
                    saved = before.changed(durable);
                    let kept = saved[0].booked.len();
                    assert!(
                        kept <= 11 || saved_after < 8,
                        "what is surely in the log is not kept: {kept}"
                    );
                }
            }
            let after = Budgets::new(rules());
            after.restore(saved);
            for (call, name) in names.iter().enumerate() {
                let entry = Entry {
                    seq: call as i64 + 1,
                    decision: name,
                    number: 1,
                    at: now,
                    cost: usd(0.1),
                };
                after.catch_up(now, "b", "", &entry);
            }
            let spent = after.rows(now).remove(0).spent_usd;
            assert_eq!(spent, usd(4.0), "saved after {saved_after}, log {lag} behind");
        }
    }
}

#[test]
fn what_nobody_uses_is_forgotten_and_what_is_under_way_is_not() {
    let budgets = Budgets::new(vec![rule(Scope::User, 1.0, OnExhausted::Reject)]);
    let user = |name| Parties {
        user: Some(name),
        ..Parties::default()
    };
    let now = at(NOON);
    drop(budgets.reserve(now, &user("gone"), usd(0.1)).unwrap());
    let held = budgets.reserve(now, &user("slow"), usd(0.1)).unwrap();
    let later = |days: i64| UnixMs(now.0 + days * 86_400_000);
    assert!(
        budgets.prune(later(1)).is_empty(),
        "a day's rest keeps the shape of the day"
    );
    assert_eq!(budgets.prune(later(2)), [("b".to_owned(), "gone".to_owned())]);
    drop(held);
    assert_eq!(budgets.prune(later(2)).len(), 1);
    assert!(budgets.rows(now).is_empty());
}

/// Whoever is let in may pass the limit by what it costs more than was expected, and by no more.
#[test]
fn requests_at_once_overspend_by_no_more_than_one_request_each() {
    for (expected, real) in [(0.01, 0.03), (0.02, 0.02), (0.03, 0.001)] {
        let budgets = Budgets::new(vec![rule(Scope::All, 1.0, OnExhausted::Reject)]);
        let mut under_way = Vec::new();
        let mut most_under_way = 0;
        for turn in 0..2_000u32 {
            if let Ok(hold) = budgets.reserve(at(NOON), &Parties::default(), usd(expected)) {
                under_way.push(hold);
            }
            most_under_way = most_under_way.max(under_way.len());
            if turn % 3 == 0 && !under_way.is_empty() {
                under_way.remove(0).book(usd(real), &"d".into(), turn);
            }
        }
        for hold in under_way.drain(..) {
            hold.book(usd(real), &"d".into(), 1);
        }
        let row = budgets.rows(at(NOON)).remove(0);
        let limit = 1.0 + most_under_way as f64 * real;
        assert!(row.spent_usd.dollars() <= limit, "{} of {limit}", row.spent_usd);
        assert_eq!(row.reserved_usd, Usd::ZERO);
    }
}

#[test]
fn a_changed_limit_keeps_what_was_spent() {
    let budgets = Budgets::new(vec![rule(Scope::All, 1.0, OnExhausted::Reject)]);
    let (now, parties) = (at(NOON), Parties::default());
    budgets
        .reserve(now, &parties, usd(1.0))
        .unwrap()
        .book(usd(1.0), &"d".into(), 1);
    budgets.reconfigure(vec![rule(Scope::All, 3.0, OnExhausted::Reject)]);
    assert_eq!(budgets.standing(now, &parties).unwrap().most, Some(usd(2.0)));
    budgets.reconfigure(Vec::new());
    assert!(budgets.rows(now).is_empty());
}

#[test]
fn threads_at_once_never_pass_a_refusing_limit() {
    let budgets = Budgets::new(vec![rule(Scope::All, 1.0, OnExhausted::Reject)]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    if let Ok(hold) = budgets.reserve(at(NOON), &Parties::default(), usd(0.001)) {
                        hold.book(usd(0.001), &"d".into(), 1);
                    }
                }
            });
        }
    });
    let row = budgets.rows(at(NOON)).remove(0);
    assert_eq!((row.spent_usd, row.reserved_usd), (usd(1.0), Usd::ZERO));
}

/// Requests of each hour of a bursty day: a quiet night, a morning rush, a lunch lull, an evening storm.
const BURSTY: [u32; 24] = [
    5, 3, 2, 2, 3, 10, 40, 150, 400, 300, 120, 90, 60, 80, 110, 130, 160, 220, 500, 900, 450, 150, 60, 20,
];

/// What one simulated day was like: spend over budget, and the cost per request of each hour with at least twenty
/// requests over the day's.
struct Day {
    used: f64,
    hours: Vec<f64>,
}

/// Plays a day. The router hits its target on average; single requests cost between a third and thrice as much,
/// and no arm is cheaper than `cheapest` or dearer than `dearest`.
fn play(budgets: &Budgets, day: i64, limit: f64, level: f64, rng: &mut ChaCha8Rng) -> Day {
    const HOUR: i64 = 3_600_000;
    let (cheapest, dearest) = (0.000_2, 0.05);
    let midnight = at("2026-11-16T00:00:00Z").0 + day * 24 * HOUR;
    let mut total = Usd::ZERO;
    let mut spend = [0.0; 24];
    let mut requests = [0.0; 24];
    for (hour, expected) in BURSTY.iter().enumerate() {
        let count = (f64::from(*expected) * level).round() as i64;
        for i in 0..count {
            let now = UnixMs(midnight + hour as i64 * HOUR + i * HOUR / count);
            let standing = budgets.standing(now, &Parties::default()).unwrap();
            let aim = standing.target.unwrap().dollars();
            // Log-normal noise with mean one.
            let normal: f64 = (0..12).map(|_| rng.gen_range(0.0..1.0)).sum::<f64>() - 6.0;
            let aim = if standing.cheapest_only() { cheapest } else { aim };
            let cost = (aim * (0.5 * normal - 0.125).exp()).clamp(cheapest, dearest);
            let hold = budgets.reserve(now, &Parties::default(), usd(aim)).unwrap();
            hold.book(usd(cost), &"d".into(), 1);
            total += usd(cost);
            spend[hour] += cost;
            requests[hour] += 1.0;
        }
    }
    let mean = total.dollars() / requests.iter().sum::<f64>();
    Day {
        used: total.dollars() / limit,
        hours: (0..24)
            .filter(|hour| requests[*hour] >= 20.0)
            .map(|hour| spend[hour] / requests[hour] / mean)
            .collect(),
    }
}

/// A new account does not know the day's shape yet, an old one does; the level changes from day to day.
#[test]
fn a_bursty_day_spends_its_budget_and_starves_no_hour() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let limit = 12.0;
    let budgets = Budgets::new(vec![rule(Scope::All, limit, OnExhausted::Cheapest)]);
    for (day, level) in [1.0, 1.0, 1.3, 0.7, 1.0].into_iter().enumerate() {
        let played = play(&budgets, day as i64, limit, level, &mut rng);
        assert!((0.98..=1.02).contains(&played.used), "day {day}: {}", played.used);
        let least = played.hours.iter().copied().fold(f64::INFINITY, f64::min);
        // The first day cannot foresee its storms; later ones keep every hour near the day's mean.
        let floor = if day == 0 { 0.35 } else { 0.6 };
        assert!(
            least >= floor,
            "day {day}: an hour got {least} of the mean, {:?}",
            played.hours
        );
    }
}

/// What each request costs over what is left for each that is really to come, from the first request of an account at
/// this share of its first period on: requests come evenly, and each costs what it should, if some model does.
fn first_period(period: Period, begin: f64, per_second: f64) -> Vec<f64> {
    let length = if period == Period::Hour { 3_600.0 } else { 86_400.0 };
    let requests = (per_second * length * (1.0 - begin)).floor();
    let (even, limit) = (0.001, 0.001 * requests);
    let rule = BudgetRule {
        period,
        ..rule(Scope::All, limit, OnExhausted::Cheapest)
    };
    let (budgets, parties) = (Budgets::new(vec![rule]), Parties::default());
    let midnight = at("2026-11-16T00:00:00Z").0;
    let mut spent = 0.0;
    let shares = (0..requests as u64).map(|turn| {
        let seconds = begin * length + turn as f64 / per_second;
        let now = UnixMs(midnight + (seconds * 1e3) as i64);
        let target = budgets.standing(now, &parties).unwrap().target.unwrap().dollars();
        let cost = target
            .clamp(0.03 * even, 12.0 * even)
            .min((limit - spent).max(0.0));
        let fair = (limit - spent) / (requests - turn as f64);
        budgets
            .reserve(now, &parties, usd(cost))
            .unwrap()
            .book(usd(cost), &"d".into(), 1);
        spent += cost;
        cost / fair
    });
    shares.collect()
}

/// From the thirtieth request on, wherever in the period the first one came. The last twentieth, in which there is little
/// money left to spend evenly, does not count. Nothing tells that a day is as even as a clock's: it may be people's.
#[test]
fn a_first_period_follows_the_rate_that_is_seen_whenever_it_begins() {
    for (period, rates, most, least) in [
        (Period::Hour, &[0.1, 1.0, 60.0][..], 1.15, 0.7),
        (Period::Day, &[0.1, 1.0][..], 1.25, 0.4),
    ] {
        for begin in [0.0, 0.2, 0.5, 0.83] {
            for &per_second in rates {
                let shares = first_period(period, begin, per_second);
                let case = format!("{period:?} from {begin}, {per_second} a second");
                let (few, rest) = shares.split_at(30);
                assert!(
                    few[..4].iter().all(|share| *share > 1.0),
                    "{case}: starved at first"
                );
                for (turn, share) in rest[..rest.len() - shares.len() / 20].iter().enumerate() {
                    assert!((least..most).contains(share), "{case}: {share} at {turn}");
                }
            }
        }
    }
}

/// A new user's first day is paced by what the days of the others were like.
#[test]
fn a_new_account_begins_with_the_shape_of_its_peers_days() {
    let budgets = Budgets::new(vec![rule(Scope::User, 1.0, OnExhausted::Cheapest)]);
    let of = |user| Parties {
        user: Some(user),
        ..Parties::default()
    };
    let midnight = at("2026-11-16T00:00:00Z").0;
    let ask = |user, hours: i64| {
        let now = UnixMs(midnight + hours * 3_600_000);
        drop(budgets.reserve(now, &of(user), usd(0.001)).unwrap());
        budgets
            .standing(now, &of(user))
            .unwrap()
            .target
            .unwrap()
            .dollars()
    };
    let alone = ask("first", 9);
    // Everybody asks once at midnight, and forty times in the evening.
    for user in ["a", "b", "c"] {
        for hour in [0, 24] {
            ask(user, hour);
            (0..40).for_each(|_| _ = ask(user, hour + 20));
        }
        ask(user, 48);
    }
    let beside = ask("new", 48 + 9);
    assert!(beside < alone / 3.0, "{beside} {alone}");
}
