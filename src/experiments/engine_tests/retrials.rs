//! The way back of a model that a drift's experiment left out, in virtual time: a request every ten seconds, each scored.

use super::*;
use crate::experiments::intervention::Intervention;
use crate::experiments::table::Ruling;

const STEP_MS: i64 = 10_000;
const HOUR: i64 = 3_600_000;
const DRIFT: &str = "drift-b-small";
const RETRIAL: &str = "retrial-b-small";

/// A router with one model that may fall, from the alarm on.
struct World {
    experiments: Experiments,
    rng: ChaCha8Rng,
    now: UnixMs,
    /// Requests that the model answered while it was worse.
    bad: u64,
    /// When retrials began.
    retrials: Vec<UnixMs>,
}

impl World {
    fn alarmed() -> Self {
        let mut world = Self {
            experiments: Experiments::default(),
            rng: ChaCha8Rng::seed_from_u64(3),
            now: UnixMs(0),
            bad: 0,
            retrials: Vec::new(),
        };
        assert_eq!(world.alarm(), Some(DRIFT.to_owned()));
        world
    }

    fn alarm(&mut self) -> Option<String> {
        let trigger = Trigger::Drift {
            route: "auto".into(),
            model: ArmId::new("b/small"),
            reference: ArmId::new("a/large"),
        };
        self.experiments.trigger(&trigger, &TERMS, self.now)
    }

    /// Serves requests for so many hours, the model answering well with this chance.
    fn serve(&mut self, hours: i64, good: f64) {
        let until = self.now.0 + hours * HOUR;
        while self.now.0 < until {
            self.now = UnixMs(self.now.0 + STEP_MS);
            for rested in self.experiments.rested(self.now) {
                let trigger = rested.trigger(&ArmId::new("a/large"));
                if self.experiments.trigger(&trigger, &TERMS, self.now).is_some() {
                    self.retrials.push(self.now);
                }
            }
            let request = self.now.0.to_string();
            let unit = Unit {
                request: &request,
                ..Unit::default()
            };
            let Some(enrolment) = self.experiments.table().assign(&unit, "auto", None) else {
                continue;
            };
            let exposure = Exposure {
                clean: true,
                cost_usd: Some([0.01, 0.002][enrolment.arm]),
                // It has always been the slower one.
                ttft_ms: Some([300.0, 2.0 * TERMS.slow_ms][enrolment.arm]),
                ..Exposure::default()
            };
            self.experiments.enrolled(&enrolment);
            self.experiments.exposed(&enrolment, &exposure, self.now);
            self.bad += u64::from(enrolment.arm == 1 && good < 0.9);
            let score = f64::from(u8::from(self.rng.gen_bool([0.9, good][enrolment.arm])));
            self.experiments
                .scored(&enrolment, "quality", score, None, self.now);
        }
    }

    fn fall(&mut self) {
        let began = self.now;
        while !self.is_left_out() {
            self.serve(1, 0.3);
            assert!(self.now.0 - began.0 < 10 * HOUR);
        }
    }

    fn phase(&self, name: &str) -> Phase {
        self.experiments.view(name).unwrap().phase
    }

    fn is_left_out(&self) -> bool {
        let table = self.experiments.table();
        let exclude = Ruling::Exclude {
            variant: model("b/small"),
        };
        table.rulings("auto", None).any(|ruling| *ruling == exclude)
    }

    fn act(&mut self, name: &str, asked: &Intervention) {
        self.experiments.intervene(name, asked, "", self.now).unwrap();
    }
}

/// Falls from .9 to .3 until it is left out, which takes an hour or two at a fifth of the traffic.
fn fallen() -> World {
    let mut world = World::alarmed();
    world.fall();
    world
}

#[test]
fn a_fall_of_hours_is_forgiven_when_it_is_repaired() {
    let mut world = fallen();
    let rest = world.experiments.view(DRIFT).unwrap().rest.unwrap();
    assert_eq!((rest.rest_ms, rest.failed, rest.readmitted), (HOUR, 0, None));
    assert!((rest.fall - 0.6).abs() < 0.3, "{rest:?}");
    world.serve(24, 0.9);
    assert_eq!(world.retrials.len(), 1, "{:?}", world.retrials);
    assert!(world.retrials[0] >= rest.until);
    let trial = world.experiments.view(RETRIAL).unwrap();
    assert_eq!(trial.phase, Phase::Shipped { arm: 1 });
    // .02, and .1 of what it fell beyond that.
    assert_eq!(
        trial.definition.statement,
        "the mean quality of b/small, which had fallen, is no more than 0.120 below that of a/large again"
    );
    assert!((trial.coverage - 0.1).abs() < 1e-9);
    assert_eq!(world.phase(DRIFT), Phase::Readmitted);
    assert!(!world.is_left_out());
    let kinds: Vec<String> = world
        .experiments
        .take_events()
        .into_iter()
        .filter(|event| event.experiment == DRIFT)
        .map(|event| {
            serde_json::to_value(event.kind).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .filter(|kind| kind != "reallocated")
        .collect();
    assert_eq!(kinds, ["defined", "started", "decided", "resting", "readmitted"]);
}

#[test]
fn a_model_that_stays_bad_is_asked_ever_more_rarely_and_little_of_it_is_seen() {
    let mut world = fallen();
    let began = world.now;
    let until_then = world.bad;
    world.serve(14 * 24, 0.3);
    assert!(world.is_left_out());
    // Each rest is twice the last, and a retrial takes some hours of its own at a tenth of the traffic.
    let gaps: Vec<i64> = std::iter::once(&began)
        .chain(&world.retrials)
        .zip(&world.retrials)
        .map(|(before, at)| (at.0 - before.0) / HOUR)
        .collect();
    for (index, gap) in gaps.iter().enumerate() {
        let rest = if index == 0 { 0 } else { 1_i64 << index };
        assert!((rest..rest + 14).contains(gap), "{gaps:?}");
    }
    let rest = world.experiments.view(DRIFT).unwrap().rest.unwrap();
    assert_eq!(rest.failed as usize, world.retrials.len(), "{gaps:?}");
    assert!((6..=8).contains(&rest.failed), "{gaps:?}");
    // Of 120,960 requests in a fortnight: thirty to a hundred a retrial.
    let seen = world.bad - until_then;
    assert!(seen < 100 * u64::from(rest.failed), "{seen}");
    // It never rests for longer than a week, and comes back when it is well.
    world.serve(14 * 24, 0.9);
    assert_eq!(world.phase(DRIFT), Phase::Readmitted);
}

#[test]
fn a_fall_soon_after_it_was_let_in_rests_longer_and_one_much_later_does_not() {
    let rest_after = |well_for_hours: i64| {
        let mut world = fallen();
        world.serve(24, 0.9);
        assert_eq!(world.phase(DRIFT), Phase::Readmitted);
        world.serve(well_for_hours, 0.9);
        assert_eq!(world.alarm(), Some(DRIFT.to_owned()));
        world.fall();
        world.experiments.view(DRIFT).unwrap().rest.unwrap().rest_ms
    };
    assert_eq!(rest_after(48), 2 * HOUR);
    assert_eq!(rest_after(10 * 24), HOUR);
}

#[test]
fn what_is_left_out_raises_no_second_question_and_a_restart_changes_nothing() {
    let mut world = fallen();
    assert_eq!(
        world.alarm(),
        None,
        "its scores in a retrial are low; that is known"
    );
    world.serve(2, 0.3);
    assert_eq!(world.phase(RETRIAL), Phase::Running);
    let world_began = world.retrials.clone();
    let text = serde_json::to_string(&world.experiments).unwrap();
    let again: Experiments = serde_json::from_str(&text).unwrap();
    let mut other = World {
        experiments: again,
        rng: world.rng.clone(),
        retrials: world.retrials.clone(),
        ..world
    };
    // In a layer of its own: somebody's experiment on all of the traffic need not wait, and goes first.
    let wide = definition("wide", Hypothesis::Superior);
    other.experiments.start(wide, other.now).unwrap();
    assert_eq!(other.phase("wide"), Phase::Running);
    let scored = |world: &World| world.experiments.view(RETRIAL).unwrap().reading.units;
    let before = scored(&other);
    other.serve(1, 0.9);
    assert_eq!(scored(&other), before);
    other.act("wide", &Intervention::Stop);
    other.serve(48, 0.9);
    assert_eq!(other.phase(DRIFT), Phase::Readmitted);
    assert_eq!(other.retrials[..1], world_began);
}

#[test]
fn what_somebody_does_by_hand_goes_first() {
    // Undone while it is asked about: it is in, and nothing is asked any more.
    let mut world = fallen();
    world.serve(2, 0.3);
    world.act(DRIFT, &Intervention::Undo);
    assert!(!world.is_left_out());
    assert_eq!(world.phase(RETRIAL), Phase::Stopped);
    world.serve(48, 0.3);
    assert_eq!(world.retrials.len(), 1);
    // Stopped, the drift's or the retrial: it is out for good, until somebody undoes that.
    for name in [DRIFT, RETRIAL] {
        let mut world = fallen();
        world.serve(2, 0.9);
        world.act(name, &Intervention::Stop);
        assert_eq!(world.phase(RETRIAL), Phase::Stopped);
        world.serve(14 * 24, 0.9);
        assert!(world.is_left_out() && world.retrials.len() == 1, "{name}");
        assert_eq!(world.experiments.view(DRIFT).unwrap().rest, None);
        let refused = world
            .experiments
            .intervene(name, &Intervention::Stop, "", world.now);
        assert!(refused.is_err(), "it is over");
        world.act(DRIFT, &Intervention::Undo);
        assert!(!world.is_left_out());
    }
    // Shipped by hand: it takes its measure's place.
    let mut world = fallen();
    world.serve(2, 0.3);
    let ship = Intervention::Ship {
        arm: "treatment".into(),
    };
    world.act(RETRIAL, &ship);
    assert!(!world.is_left_out());
    assert_eq!(world.phase(RETRIAL), Phase::Shipped { arm: 1 });
    assert_eq!(world.phase(DRIFT), Phase::Undone);
    world.serve(48, 0.3);
    assert_eq!(world.retrials.len(), 1);
}

/// What somebody asks by hand rules nothing out, so nothing ends with it: least of all the model's way back.
#[test]
fn an_experiment_by_hand_that_finds_harm_too_does_not_end_the_retrial() {
    const BY_HAND: &str = "by-hand";
    let mut world = fallen();
    while world.retrials.is_empty() {
        world.serve(1, 0.3);
    }
    let by_hand = Definition {
        coverage: 0.9,
        ..definition(BY_HAND, Hypothesis::Superior)
    };
    world.experiments.start(by_hand, world.now).unwrap();
    while world.phase(BY_HAND) == Phase::Running {
        world.serve(1, 0.3);
    }
    assert_eq!(world.phase(BY_HAND), Phase::StoppedForHarm);
    assert_eq!(world.phase(RETRIAL), Phase::Running);
    assert_eq!(world.retrials.len(), 1, "it goes on, and does not begin anew");
}
