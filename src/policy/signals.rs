//! Free signals of quality, calibrated against real scores: what an answer's end tells of its worth.

use serde::{Deserialize, Serialize};

/// Weight of a free signal beside an explicit score's 1.
pub const SIGNAL_WEIGHT: f64 = 0.1;
/// Scored answers that the first guess of a signal's meaning counts for.
const PRIOR_SCORES: f64 = 5.0;

/// What was noticed of an answer without anybody's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Nothing.
    Ordinary,
    /// It ended without a visible word and without a call of a tool.
    Empty,
    /// The token limit cut it off.
    Truncated,
    /// A filter stopped it.
    Refused,
    /// The user asked the same again at once.
    Regenerated,
}

impl Signal {
    const ALL: [Self; 5] = [
        Self::Ordinary,
        Self::Empty,
        Self::Truncated,
        Self::Refused,
        Self::Regenerated,
    ];

    /// What an answer's end tells. `finish` is the log's word for why it ended.
    #[must_use]
    pub fn of_answer(finish: &str, text_bytes: u64) -> Self {
        match finish {
            "length" => Self::Truncated,
            "content_filter" => Self::Refused,
            "stop" if text_bytes == 0 => Self::Empty,
            _ => Self::Ordinary,
        }
    }

    /// Quality points that the signal is first taken to be worth.
    const fn first_guess(self) -> f64 {
        match self {
            Self::Ordinary => 0.0,
            Self::Empty => -0.5,
            Self::Refused => -0.4,
            Self::Truncated | Self::Regenerated => -0.2,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    /// Answers with this signal.
    seen: f64,
    /// Those that were scored, and the sum of their scores less what had been expected.
    scored: f64,
    excess: f64,
}

/// What each signal has turned out to be worth, over all arms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    tallies: [Tally; 5],
}

impl Calibration {
    /// An answer came with `signal`.
    pub fn saw(&mut self, signal: Signal) {
        self.tallies[signal as usize].seen += 1.0;
    }

    /// An answer with `signal` was scored `excess` above what had been expected of it.
    pub fn scored(&mut self, signal: Signal, excess: f64) {
        if excess.is_finite() {
            let tally = &mut self.tallies[signal as usize];
            tally.scored += 1.0;
            tally.excess += excess;
        }
    }

    /// Quality points by which an answer with `signal` differs from what is expected.
    ///
    /// s = (5 s_0 + sum of excesses) / (5 + scored), and for an ordinary answer the rest, so that the mean over all
    /// answers is 0: signals move an arm only by how much oftener or rarer than others it shows them. Learning the bad
    /// signs alone would pull every arm down.
    #[must_use]
    pub fn shift(&self, signal: Signal) -> f64 {
        let worth = |signal: Signal| {
            let tally = &self.tallies[signal as usize];
            (PRIOR_SCORES * signal.first_guess() + tally.excess) / (PRIOR_SCORES + tally.scored)
        };
        if signal != Signal::Ordinary {
            return worth(signal).clamp(-1.0, 1.0);
        }
        let ordinary = self.tallies[Signal::Ordinary as usize].seen;
        let others = Signal::ALL.iter().filter(|other| **other != Signal::Ordinary);
        let sum: f64 = others
            .map(|&other| self.tallies[other as usize].seen * worth(other).clamp(-1.0, 1.0))
            .sum();
        if ordinary > 0.0 {
            (-sum / ordinary).clamp(-0.2, 0.2)
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_end_is_read() {
        assert_eq!(Signal::of_answer("stop", 10), Signal::Ordinary);
        assert_eq!(Signal::of_answer("stop", 0), Signal::Empty);
        assert_eq!(Signal::of_answer("tool_calls", 0), Signal::Ordinary);
        assert_eq!(Signal::of_answer("length", 10), Signal::Truncated);
        assert_eq!(Signal::of_answer("content_filter", 0), Signal::Refused);
    }

    #[test]
    fn a_signal_comes_to_mean_what_scores_say() {
        let mut known = Calibration::default();
        assert!((known.shift(Signal::Truncated) + 0.2).abs() < 1e-12);
        // Fifteen truncated answers scored as expected: (5 * -0.2 + 0) / 20.
        (0..15).for_each(|_| known.scored(Signal::Truncated, 0.0));
        assert!((known.shift(Signal::Truncated) + 0.05).abs() < 1e-12);
    }

    #[test]
    fn signals_of_all_answers_together_move_nothing() {
        let mut known = Calibration::default();
        (0..90).for_each(|_| known.saw(Signal::Ordinary));
        (0..10).for_each(|_| known.saw(Signal::Truncated));
        let mean = 0.9 * known.shift(Signal::Ordinary) + 0.1 * known.shift(Signal::Truncated);
        assert!(mean.abs() < 1e-12, "{mean}");
    }
}
