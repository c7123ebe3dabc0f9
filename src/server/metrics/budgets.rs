//! Budgets: what may be spent, and what was.

use std::collections::BTreeMap;

use crate::app::App;
use crate::clock;
use crate::pricing::budget::{BudgetRow, Scope};
use crate::server::metrics::exposition::{Exposition, Millis};
use crate::units::Usd;

/// A budget's accounts added up, or its only one.
#[derive(Default)]
struct Sums {
    accounts: u64,
    limit: Usd,
    spent: Usd,
    reserved: Usd,
    left: Usd,
    renews_ms: i64,
}

impl Sums {
    fn add(&mut self, row: &BudgetRow) {
        self.accounts += 1;
        self.limit += row.limit_usd;
        self.spent += row.spent_usd;
        self.reserved += row.reserved_usd;
        self.left += row.left_usd;
        self.renews_ms = self.renews_ms.max(row.renews_ms.0);
    }
}

/// Each budget of the configuration.
pub(super) fn budgets(app: &App, text: &mut Exposition) {
    let mut sums: BTreeMap<(String, String), Sums> = BTreeMap::new();
    for row in app.budgets.rows(clock::wall()) {
        // Users and tags are clients' words, and there may be very many.
        let subject = match row.scope {
            Scope::User | Scope::Tag(_) => String::new(),
            Scope::All | Scope::Route | Scope::Key => row.subject.clone(),
        };
        sums.entry((row.name.clone(), subject)).or_default().add(&row);
    }
    type Figure = fn(&Sums) -> i64;
    let figures: [(&str, &str, Figure); 5] = [
        (
            "pointsman_budget_limit_nanodollars",
            "What may be spent in a period.",
            |sums| sums.limit.nanos(),
        ),
        (
            "pointsman_budget_spent_nanodollars",
            "What was spent in this period.",
            |sums| sums.spent.nanos(),
        ),
        (
            "pointsman_budget_reserved_nanodollars",
            "What requests under way may still spend.",
            |sums| sums.reserved.nanos(),
        ),
        (
            "pointsman_budget_left_nanodollars",
            "What is left of it.",
            |sums| sums.left.nanos(),
        ),
        (
            "pointsman_budget_accounts",
            "Accounts: one, or one for each user or tag.",
            |sums| i64::try_from(sums.accounts).unwrap_or(i64::MAX),
        ),
    ];
    for (name, help, figure) in figures {
        let mut family = text.gauge(name, help);
        for ((budget, subject), sums) in &sums {
            family.sample(&[("budget", budget), ("subject", subject)], figure(sums));
        }
    }
    let mut family = text.gauge(
        "pointsman_budget_renews_time_seconds",
        "When the period ends, Unix time.",
    );
    for ((budget, subject), sums) in &sums {
        family.sample(
            &[("budget", budget), ("subject", subject)],
            Millis(sums.renews_ms),
        );
    }
}
