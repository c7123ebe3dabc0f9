//! The router as a customer of the bank's houses.

use std::fmt::Write as _;
use std::ops::Deref;

use jiff::ToSpan;
use jiff::tz::TimeZone;
use pointsman::clock;
use pointsman::config::{self, Source};
use serde_json::{Value, json};

use super::bank::{Bank, Fate};
use super::houses::{HOUSES, House};
use crate::running::Running;

/// The server with a model at each house of the bank, and for each a route that falls back to the next one.
pub struct Shop {
    server: Running,
    _folder: tempfile::TempDir,
}

impl Shop {
    pub async fn open(bank: &Bank) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut toml = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\n[embedding]\nmodel = \"off\"\n",
            folder.path().join("data")
        );
        let (peak, quiet) = hours();
        for house in HOUSES {
            write!(
                toml,
                "[[providers]]\nname = \"{name}\"\nkind = \"{kind}\"\nbase_url = \"{base}\"\n\
                 [[models]]\nid = \"{model}\"\ncontext_window = 2000000\nmax_output_tokens = 4096\n\
                 modalities = [\"text\"]\n[models.price]\n{price}",
                name = house.name(),
                kind = house.kind(),
                base = bank.base_url(house),
                model = house.model(),
                price = house.price_toml(&peak, &quiet),
            )
            .unwrap();
        }
        for (index, house) in HOUSES.iter().enumerate() {
            let next = HOUSES[(index + 1) % HOUSES.len()];
            write!(
                toml,
                "[[routes]]\nname = \"{}\"\nmodels = [{:?}]\nfallbacks = [{:?}]\n\
                 hedge = {{ enabled = false, max_rate = 1.0 }}\n",
                route(*house),
                house.model(),
                next.model(),
            )
            .unwrap();
        }
        toml += "[[budgets]]\nname = \"all\"\nscope = \"all\"\nusd = 1000000.0\nperiod = \"month\"\n";
        let config =
            config::parse(&toml, Source::Text, &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
        Self {
            server: Running::start(config, 5).await,
            _folder: folder,
        }
    }

    /// Every metric's line with its value.
    pub async fn metrics(&self) -> Vec<(String, String)> {
        let text = self.text("/metrics").await;
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.to_owned())
            })
            .collect()
    }
}

impl Deref for Shop {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.server
    }
}

pub fn route(house: House) -> String {
    format!("at-{}", house.name())
}

/// A call's body. All prompts have the same number of tokens.
pub fn body(house: House, call: u64, fate: Fate, streams: bool) -> Value {
    let mut body = json!({
        "model": route(house), "stream": streams, "user": call.to_string(),
        "messages": [{"role": "user", "content": format!("Settle call-{call:06}-{}, please.", fate.word())}],
    });
    if fate == Fate::Late {
        body["routing"] = json!({"hedge": true, "ttft_budget_ms": 25});
    }
    body
}

/// Two windows by DeepSeek's clock that double the price: one that holds now and for hours to come, and one that does
/// not. Which moment decides at a window's edge is tested where time can be chosen.
fn hours() -> (String, String) {
    let now = jiff::Timestamp::from_millisecond(clock::wall().0).unwrap();
    let zoned = now.to_zoned(TimeZone::get("Asia/Shanghai").unwrap());
    let hour = |offset: i64| (&zoned + offset.hours()).strftime("%H:00").to_string();
    let window = |from: i64, to: i64| {
        format!(
            "{{ timezone = \"Asia/Shanghai\", start = \"{}\", end = \"{}\", multiplier = 2.0 }}",
            hour(from),
            hour(to)
        )
    };
    (window(-2, 3), window(6, 9))
}
