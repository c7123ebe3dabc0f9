//! `[[budgets]]` and a route's `budget`.

use super::prices::zone;
use super::read::Section;
use super::routes::Route;
use crate::pricing::budget::{BudgetRule, OnExhausted, Period, Scope};

/// What a budget block and a route's own budget have in common.
pub(super) fn rule(
    section: &Section<'_>,
    name: String,
    scope: Scope,
    subject: Option<String>,
) -> Option<BudgetRule> {
    let limit = section.positive_usd("usd");
    if limit.is_none() && !section.contains("usd") {
        section.problem("", "`usd` is missing; what may be spent in a period");
    }
    let periods = [
        ("hour", Period::Hour),
        ("day", Period::Day),
        ("month", Period::Month),
    ];
    let period = section.word("period", &periods);
    if period.is_none() && !section.contains("period") {
        section.problem("", "`period` is missing; hour, day or month");
    }
    let outcomes = [
        ("cheapest", OnExhausted::Cheapest),
        ("reject", OnExhausted::Reject),
    ];
    let on_exhausted = section
        .word("on_exhausted", &outcomes)
        .unwrap_or(OnExhausted::Cheapest);
    let zone = zone(section, "timezone");
    Some(BudgetRule {
        name,
        scope,
        subject,
        limit: limit?,
        period: period?,
        zone: zone?,
        on_exhausted,
    })
}

pub(super) fn budgets(sections: &[Section<'_>], routes: &[Route]) -> Vec<BudgetRule> {
    let mut budgets: Vec<BudgetRule> = Vec::new();
    for section in sections {
        let scopes = [
            ("all", Scope::All),
            ("route", Scope::Route),
            ("key", Scope::Key),
            ("user", Scope::User),
            ("tag", Scope::Tag(String::new())),
        ];
        let scope = section.word("scope", &scopes);
        if scope.is_none() && !section.contains("scope") {
            section.problem("", "`scope` is missing; one of all, route, key, user, tag");
        }
        let tag = section.string("tag");
        let scope = match (scope, tag) {
            (Some(Scope::Tag(_)), Some(tag)) => Some(Scope::Tag(tag)),
            (Some(Scope::Tag(_)), None) => {
                section.problem("", "`tag` is missing; the key of the request's metadata");
                None
            }
            (scope, None) => scope,
            (_, Some(_)) => {
                section.problem("tag", "has a meaning only with scope = \"tag\"");
                None
            }
        };
        let subject = section.string("subject");
        let name = section.required_string("name", "it stands in logs and in answers");
        if let (Some(Scope::Route), Some(route)) = (&scope, &subject)
            && !routes.iter().any(|known| known.name == *route)
        {
            section.problem("subject", format!("\"{route}\" is not a route of this file"));
        }
        if let Some(name) = &name
            && (budgets.iter().any(|other| other.name == *name)
                || routes
                    .iter()
                    .any(|route| route.budget.as_ref().is_some_and(|b| b.name == *name)))
        {
            section.problem("name", format!("\"{name}\" is the name of another budget too"));
        }
        let placeholder = (
            name.clone().unwrap_or_default(),
            scope.clone().unwrap_or(Scope::All),
        );
        let rule = rule(section, placeholder.0, placeholder.1, subject);
        section.done();
        if let (Some(rule), Some(_), Some(_)) = (rule, name, scope) {
            budgets.push(rule);
        }
    }
    budgets
}
