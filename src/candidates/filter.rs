//! Which arms can and may take a request.

use std::sync::Arc;

use super::refusal::{Refusal, Refused};
use crate::arm::{Arm, ArmId};
use crate::content::ContentFacts;
use crate::request::ProviderPreferences;
use crate::units::Usd;

/// Tokens kept free for the answer when the client sets no limit of its own.
const ANSWER_RESERVE: u64 = 1_024;

/// What a request asks of every arm.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// What it holds.
    pub content: &'a ContentFacts,
    /// Whether it offers tools that only OpenAI-shaped providers know.
    pub foreign_tools: bool,
    /// The client's limit on the answer.
    pub max_output_tokens: Option<u32>,
    /// Which providers may serve, at which list prices.
    pub preferences: &'a ProviderPreferences,
    /// Most that the request may cost.
    pub max_cost: Option<Usd>,
    /// Whether its cost counts against a budget, so that it must be known.
    pub under_budget: bool,
    /// What is left under budgets that fall back to the cheapest arm when they are spent: what is expected to cost more
    /// may serve only if nothing is cheaper.
    pub room: Option<Usd>,
    /// The models that a rule allows. `None`: no rule matched.
    pub allowed: Option<&'a [ArmId]>,
}

/// An arm with what is needed to judge it for one request.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// The arm.
    pub arm: &'a Arc<Arm>,
    /// Whether its provider speaks OpenAI's wire format.
    pub openai_shaped: bool,
    /// Input tokens of the request on this arm, pictures and documents included, by estimate.
    pub input_tokens: u64,
    /// Its list price. `None`: unknown.
    pub list: Option<ListPrice>,
    /// What the request is expected to cost on it. `None`: unknown.
    pub cost: Option<Usd>,
}

/// List prices, as OpenRouter's `max_price` limits them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ListPrice {
    /// USD per million input tokens.
    pub prompt: f64,
    /// USD per million output tokens.
    pub completion: f64,
    /// USD per request.
    pub request: f64,
}

/// What the filter leaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filtered {
    /// Indices of the eligible arms into the given ones, in their order.
    pub eligible: Vec<usize>,
    /// The others.
    pub refused: Vec<Refused>,
}

/// Judges every arm.
#[must_use]
pub fn filter(demand: &Demand<'_>, arms: &[Means<'_>]) -> Filtered {
    let mut filtered = Filtered::default();
    for (index, means) in arms.iter().enumerate() {
        match refusal(demand, means) {
            None => filtered.eligible.push(index),
            Some(reason) => filtered.refused.push(Refused {
                arm: means.arm.id.clone(),
                reason,
            }),
        }
    }
    if let Some(room) = demand.room {
        let cheapest = filtered
            .eligible
            .iter()
            .copied()
            .min_by_key(|index| arms[*index].cost);
        let fits = |index: &usize| {
            Some(*index) == cheapest
                || arms[*index]
                    .cost
                    .is_some_and(|cost| cost <= room && room > Usd::ZERO)
        };
        let (kept, over): (Vec<usize>, Vec<usize>) = filtered.eligible.iter().partition(|index| fits(index));
        filtered.refused.extend(over.into_iter().map(|index| Refused {
            arm: arms[index].arm.id.clone(),
            reason: Refusal::BudgetSpent,
        }));
        filtered.eligible = kept;
    }
    filtered
}

fn refusal(demand: &Demand<'_>, means: &Means<'_>) -> Option<Refusal> {
    permission(demand, means)
        .or_else(|| ability(demand, means))
        .or_else(|| price(demand, means))
}

/// Whether it may.
fn permission(demand: &Demand<'_>, means: &Means<'_>) -> Option<Refusal> {
    if demand
        .allowed
        .is_some_and(|allowed| !allowed.contains(&means.arm.id))
    {
        return Some(Refusal::Rule);
    }
    let preferences = demand.preferences;
    let provider = means.arm.id.provider();
    let among = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case(provider));
    let only_ordered = preferences.allow_fallbacks == Some(false) && !preferences.order.is_empty();
    let left_out = among(&preferences.ignore)
        || (!preferences.only.is_empty() && !among(&preferences.only))
        || (only_ordered && !among(&preferences.order));
    left_out.then_some(Refusal::Provider)
}

/// Whether it can.
fn ability(demand: &Demand<'_>, means: &Means<'_>) -> Option<Refusal> {
    let (arm, content) = (means.arm, demand.content);
    if let Some(missing) = content
        .modalities
        .iter()
        .find(|kind| !arm.modalities.contains(*kind))
    {
        return Some(Refusal::Modality(missing));
    }
    if (content.tools > 0 || demand.foreign_tools) && !arm.tools {
        return Some(Refusal::Tools);
    }
    if demand.foreign_tools && !means.openai_shaped {
        return Some(Refusal::ForeignTools);
    }
    if content.structured_output && !arm.structured_output {
        return Some(Refusal::StructuredOutput);
    }
    if let Some(asked) = demand
        .max_output_tokens
        .filter(|asked| *asked > arm.max_output_tokens)
    {
        return Some(Refusal::OutputLimit {
            asked,
            most: arm.max_output_tokens,
        });
    }
    let reserve = demand
        .max_output_tokens
        .map_or_else(|| ANSWER_RESERVE.min(u64::from(arm.max_output_tokens)), u64::from);
    let needed = means.input_tokens.saturating_add(reserve);
    (needed > u64::from(arm.context_window)).then_some(Refusal::ContextWindow {
        needed,
        window: arm.context_window,
    })
}

/// Whether it is affordable.
fn price(demand: &Demand<'_>, means: &Means<'_>) -> Option<Refusal> {
    let ceilings = demand.preferences.max_price.as_ref();
    let limited =
        demand.under_budget || demand.room.is_some() || demand.max_cost.is_some() || ceilings.is_some();
    let (Some(list), Some(cost)) = (means.list, means.cost) else {
        return limited.then_some(Refusal::UnknownPrice);
    };
    if let Some(ceilings) = ceilings {
        let above = |price: f64, ceiling: Option<f64>| ceiling.is_some_and(|ceiling| price > ceiling);
        if above(list.prompt, ceilings.prompt)
            || above(list.completion, ceilings.completion)
            || above(list.request, ceilings.request)
        {
            return Some(Refusal::MaxPrice);
        }
    }
    demand
        .max_cost
        .filter(|limit| cost > *limit)
        .map(|limit| Refusal::MaxCost {
            expected: cost,
            limit,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::{Modalities, Modality};
    use crate::request::MaxPrice;

    fn arm(id: &str) -> Arm {
        Arm {
            id: ArmId::new(id),
            upstream: "m".into(),
            family: "m".into(),
            context_window: 8_000,
            max_output_tokens: 2_000,
            modalities: Modalities::TEXT,
            tools: false,
            structured_output: false,
        }
    }

    fn means(arm: &Arc<Arm>) -> Means<'_> {
        Means {
            arm,
            openai_shaped: true,
            input_tokens: 1_000,
            list: Some(ListPrice {
                prompt: 1.0,
                completion: 2.0,
                request: 0.0,
            }),
            cost: Some(Usd::from_nanos(1_000_000)),
        }
    }

    fn facts() -> ContentFacts {
        ContentFacts {
            modalities: Modalities::TEXT,
            ..ContentFacts::default()
        }
    }

    /// Judges one arm under a demand that `change` alters.
    fn judge<'a>(
        content: &'a ContentFacts,
        preferences: &'a ProviderPreferences,
        means: Means<'a>,
        change: impl FnOnce(&mut Demand<'a>),
    ) -> Option<Refusal> {
        let mut demand = Demand {
            content,
            foreign_tools: false,
            max_output_tokens: None,
            preferences,
            max_cost: None,
            under_budget: false,
            room: None,
            allowed: None,
        };
        change(&mut demand);
        filter(&demand, &[means])
            .refused
            .pop()
            .map(|refused| refused.reason)
    }

    #[test]
    fn content_must_be_accepted() {
        let (plain, preferences) = (Arc::new(arm("a/m")), ProviderPreferences::default());
        let judge = |content: &ContentFacts| judge(content, &preferences, means(&plain), |_| {});
        assert_eq!(judge(&facts()), None);
        let mut picture = facts();
        picture.modalities = picture.modalities.with(Modality::Image);
        assert_eq!(judge(&picture), Some(Refusal::Modality(Modality::Image)));
        let with_tools = ContentFacts { tools: 1, ..facts() };
        assert_eq!(judge(&with_tools), Some(Refusal::Tools));
        let json = ContentFacts {
            structured_output: true,
            ..facts()
        };
        assert_eq!(judge(&json), Some(Refusal::StructuredOutput));
    }

    #[test]
    fn prompt_and_answer_must_fit() {
        let (plain, preferences, content) = (Arc::new(arm("a/m")), ProviderPreferences::default(), facts());
        let judge = |input_tokens, limit| {
            let means = Means {
                input_tokens,
                ..means(&plain)
            };
            judge(&content, &preferences, means, |demand| {
                demand.max_output_tokens = limit
            })
        };
        assert_eq!(judge(8_000 - 1_024, None), None);
        let too_long = Refusal::ContextWindow {
            needed: 8_001,
            window: 8_000,
        };
        assert_eq!(judge(8_001 - 1_024, None), Some(too_long));
        assert_eq!(judge(6_000, Some(2_000)), None);
        assert_eq!(judge(6_001, Some(2_000)), Some(too_long));
        let answer = Refusal::OutputLimit {
            asked: 2_001,
            most: 2_000,
        };
        assert_eq!(judge(10, Some(2_001)), Some(answer));
    }

    #[test]
    fn the_clients_providers_are_kept_to() {
        let (plain, content) = (Arc::new(arm("Mistral/m")), facts());
        let judge = |preferences: ProviderPreferences| judge(&content, &preferences, means(&plain), |_| {});
        let names = |name: &str| vec![name.to_owned()];
        let left_out = Some(Refusal::Provider);
        let only = |name| ProviderPreferences {
            only: names(name),
            ..ProviderPreferences::default()
        };
        assert_eq!(judge(only("mistral")), None);
        assert_eq!(judge(only("openai")), left_out);
        assert_eq!(
            judge(ProviderPreferences {
                ignore: names("mistral"),
                ..ProviderPreferences::default()
            }),
            left_out
        );
        let order = |allow_fallbacks| ProviderPreferences {
            order: names("openai"),
            allow_fallbacks,
            ..ProviderPreferences::default()
        };
        assert_eq!(judge(order(None)), None);
        assert_eq!(judge(order(Some(false))), left_out);
    }

    #[test]
    fn an_unknown_price_is_refused_where_cost_is_limited() {
        let (plain, preferences, content) = (Arc::new(arm("a/m")), ProviderPreferences::default(), facts());
        let unknown = Means {
            list: None,
            cost: None,
            ..means(&plain)
        };
        assert_eq!(judge(&content, &preferences, unknown, |_| {}), None);
        let refused = Some(Refusal::UnknownPrice);
        assert_eq!(
            judge(&content, &preferences, unknown, |d| d.under_budget = true),
            refused
        );
        assert_eq!(
            judge(&content, &preferences, unknown, |d| d.max_cost = Some(Usd::MAX)),
            refused
        );
        let capped = ProviderPreferences {
            max_price: Some(MaxPrice::default()),
            ..ProviderPreferences::default()
        };
        assert_eq!(judge(&content, &capped, unknown, |_| {}), refused);
    }

    #[test]
    fn ceilings_on_list_price_and_on_cost_hold() {
        let (plain, content) = (Arc::new(arm("a/m")), facts());
        let ceiling = |completion| ProviderPreferences {
            max_price: Some(MaxPrice {
                completion: Some(completion),
                ..MaxPrice::default()
            }),
            ..ProviderPreferences::default()
        };
        assert_eq!(judge(&content, &ceiling(2.0), means(&plain), |_| {}), None);
        assert_eq!(
            judge(&content, &ceiling(1.9), means(&plain), |_| {}),
            Some(Refusal::MaxPrice)
        );
        let none = ProviderPreferences::default();
        let limit = Usd::from_nanos(999_999);
        let too_dear = Refusal::MaxCost {
            expected: Usd::from_nanos(1_000_000),
            limit,
        };
        assert_eq!(
            judge(&content, &none, means(&plain), |d| d.max_cost = Some(limit)),
            Some(too_dear)
        );
        assert_eq!(
            too_dear.to_string(),
            "is expected to cost $0.001, more than the limit of $0.000999999"
        );
    }

    #[test]
    fn a_spent_budget_leaves_the_cheapest() {
        let (dear, cheap) = (Arc::new(arm("a/dear")), Arc::new(arm("b/cheap")));
        let (content, preferences) = (facts(), ProviderPreferences::default());
        let demand = Demand {
            content: &content,
            foreign_tools: false,
            max_output_tokens: None,
            preferences: &preferences,
            max_cost: None,
            under_budget: true,
            room: Some(Usd::ZERO),
            allowed: None,
        };
        let arms = [
            means(&dear),
            Means {
                cost: Some(Usd::from_nanos(10)),
                ..means(&cheap)
            },
        ];
        let filtered = filter(&demand, &arms);
        assert_eq!(filtered.eligible, [1]);
        assert_eq!(filtered.refused[0].reason, Refusal::BudgetSpent);
        let json = serde_json::to_value(&filtered.refused).unwrap();
        assert_eq!(json[0]["model"], "a/dear");
        assert_eq!(
            json[0]["excluded"],
            "the budget is spent and another model is cheaper"
        );
    }

    #[test]
    fn a_rule_leaves_only_its_models() {
        let (plain, preferences, content) = (Arc::new(arm("a/m")), ProviderPreferences::default(), facts());
        let other = [ArmId::new("b/m")];
        let own = [ArmId::new("a/m")];
        let refused = judge(&content, &preferences, means(&plain), |d| {
            d.allowed = Some(&other)
        });
        assert_eq!(refused, Some(Refusal::Rule));
        assert_eq!(
            judge(&content, &preferences, means(&plain), |d| d.allowed = Some(&own)),
            None
        );
    }
}
