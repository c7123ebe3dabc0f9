//! Prometheus' text format: families of samples, labels escaped, durations as exact seconds.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::telemetry::counters::Buckets;

/// The text as it grows.
#[derive(Default)]
pub(super) struct Exposition(String);

/// The samples of one name. They stand together, below what the name means.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Exposition {
    /// Something that only grows.
    pub(super) fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "counter", help)
    }

    /// Something that rises and falls.
    pub(super) fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "gauge", help)
    }

    /// How often something took how long.
    pub(super) fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "histogram", help)
    }

    fn family<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family {
            text: &mut self.0,
            name,
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One sample.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// The samples of a histogram: the buckets, the sum and the count.
    pub(super) fn buckets(&mut self, labels: &[(&str, &str)], buckets: &Buckets) {
        for &(bound, count) in &buckets.up_to {
            let bound = Micros(bound).to_string();
            let bound = bound.trim_end_matches('0').trim_end_matches('.');
            self.line("_bucket", &[labels, &[("le", bound)]].concat(), count);
        }
        self.line("_bucket", &[labels, &[("le", "+Inf")]].concat(), buckets.count);
        self.line("_sum", labels, Micros(buckets.sum_us));
        self.line("_count", labels, buckets.count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        self.labels(labels);
        let _ = writeln!(self.text, " {value}");
    }

    fn labels(&mut self, labels: &[(&str, &str)]) {
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
    }
}

/// Milliseconds, written as exact seconds.
pub(super) struct Millis(pub(super) i64);

impl Display for Millis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.div_euclid(1_000), self.0.rem_euclid(1_000))
    }
}

/// Microseconds, written as exact seconds.
struct Micros(u64);

impl Display for Micros {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_histograms_end_with_infinity() {
        let mut text = Exposition::default();
        text.gauge("a", "One.").sample(&[("b", "x\"y\\z\nw")], 1);
        let buckets = Buckets {
            up_to: vec![(50, 1), (1_000_000, 2), (20_000_000, 2)],
            count: 3,
            sum_us: 1_500_050,
        };
        text.histogram("h", "Two.").buckets(&[("m", "p/q")], &buckets);
        let text = text.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "# HELP a One.",
                "# TYPE a gauge",
                r#"a{b="x\"y\\z\nw"} 1"#,
                "# HELP h Two.",
                "# TYPE h histogram",
                r#"h_bucket{m="p/q",le="0.00005"} 1"#,
                r#"h_bucket{m="p/q",le="1"} 2"#,
                r#"h_bucket{m="p/q",le="20"} 2"#,
                r#"h_bucket{m="p/q",le="+Inf"} 3"#,
                r#"h_sum{m="p/q"} 1.500050"#,
                r#"h_count{m="p/q"} 3"#,
            ]
        );
    }
}
